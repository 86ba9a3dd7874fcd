//! Members reach each other over TCP: a length, then MessagePack. A connection carries either a stream of appends, whose answers come in their order
//! without being waited for, or one request after the other.

use crate::state::Content;
use crate::{Node, Types};
use futures_util::{Stream, StreamExt, stream};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longest message.
const BYTES_MAX: u32 = 64 << 20;

#[derive(Serialize, Deserialize)]
enum Ask {
    /// From here on appends alone come, and are answered as they are flushed.
    Stream,
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot(VoteOf<Types>, SnapshotMetaOf<Types>, Content),
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    let bytes = rmp_serde::to_vec(value).map_err(failed)?;
    to.write_u32(u32::try_from(bytes.len()).map_err(failed)?)
        .await?;
    to.write_all(&bytes).await
}

async fn read<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let len = from.read_u32().await?;
    if len > BYTES_MAX {
        return Err(failed("a message that is too long"));
    }
    let mut bytes = vec![0; len as usize];
    from.read_exact(&mut bytes).await?;
    rmp_serde::from_slice(&bytes).map_err(failed)
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Takes connections of other members.
pub(crate) async fn serve(listener: TcpListener, node: Node) {
    while let Ok((stream, _)) = listener.accept().await {
        let node = node.clone();
        // What ends a connection is for the other side to see.
        tokio::spawn(async move { answer(stream, node).await });
    }
}

async fn answer(stream: TcpStream, node: Node) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (from, to) = stream.into_split();
    let (mut from, mut to) = (
        BufReader::with_capacity(256 << 10, from),
        BufWriter::new(to),
    );
    loop {
        match read::<Ask>(&mut from).await? {
            Ask::Stream => break,
            Ask::Append(ask) => {
                let done = node.append_entries(ask).await.map_err(failed)?;
                write(&mut to, &done).await?;
            }
            Ask::Vote(ask) => write(&mut to, &node.vote(ask).await.map_err(failed)?).await?,
            Ask::PreVote(ask) => {
                write(&mut to, &node.pre_vote(ask).await.map_err(failed)?).await?;
            }
            Ask::Snapshot(vote, meta, snapshot) => {
                let snapshot = SnapshotOf::<Types, Content> { meta, snapshot };
                let done = node.install_full_snapshot(vote, snapshot).await;
                write(&mut to, &done.map_err(failed)?).await?;
            }
        }
        to.flush().await?;
    }
    let asked = stream::unfold(from, |mut from| async {
        let ask: AppendEntriesRequest<Types> = read(&mut from).await.ok()?;
        Some((ask, from))
    });
    let mut answers = pin!(node.stream_append(asked));
    while let Some(answer) = answers.next().await {
        write(&mut to, &answer.map_err(failed)?).await?;
        to.flush().await?;
    }
    Ok(())
}

/// Makes connections to members.
pub(crate) struct Connector;

impl RaftNetworkFactory<Types> for Connector {
    type Network = Link;

    async fn new_client(&mut self, _: u64, node: &BasicNode) -> Link {
        Link {
            address: node.addr.clone(),
            open: None,
        }
    }
}

/// To one member.
pub(crate) struct Link {
    address: String,
    /// Of single requests.
    open: Option<TcpStream>,
}

fn unreachable(error: io::Error) -> Unreachable<Types> {
    Unreachable::new(&error)
}

impl Link {
    async fn ask<T: DeserializeOwned>(&mut self, ask: &Ask, option: &RPCOption) -> io::Result<T> {
        let mut stream = match self.open.take() {
            Some(stream) => stream,
            None => dial(&self.address).await?,
        };
        let talk = async {
            let mut to = BufWriter::new(&mut stream);
            write(&mut to, ask).await?;
            to.flush().await?;
            let answer = read(&mut stream).await?;
            Ok::<T, io::Error>(answer)
        };
        let answer = tokio::time::timeout(option.hard_ttl(), talk).await??;
        self.open = Some(stream);
        Ok(answer)
    }
}

/// Ends the task when the stream of its answers is dropped.
struct Ends(JoinHandle<io::Result<()>>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Content;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.ask(&Ask::Append(rpc), &option).await;
        answer.map_err(|error| unreachable(error).into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let stream = dial(&self.address).await.map_err(unreachable)?;
            let (from, to) = stream.into_split();
            let (ask, mut asked) = mpsc::channel::<AppendEntriesRequest<Types>>(64);
            let writing = Ends(tokio::spawn(async move {
                let mut to = BufWriter::with_capacity(256 << 10, to);
                write(&mut to, &Ask::Stream).await?;
                while let Some(ask) = asked.recv().await {
                    write(&mut to, &ask).await?;
                    while let Ok(ask) = asked.try_recv() {
                        write(&mut to, &ask).await?;
                    }
                    to.flush().await?;
                }
                Ok(())
            }));
            let feeding = Ends(tokio::spawn(async move {
                while let Some(next) = input.next().await {
                    if ask.send(next).await.is_err() {
                        break;
                    }
                }
                Ok(())
            }));
            let from = BufReader::new(from);
            let answers = stream::unfold(Some((from, writing, feeding)), |open| async {
                let (mut from, writing, feeding) = open?;
                match read::<StreamAppendResult<Types>>(&mut from).await {
                    Ok(answer) => Some((Ok(answer), Some((from, writing, feeding)))),
                    Err(error) => Some((Err(unreachable(error).into()), None)),
                }
            });
            let answers: BoxStream<'s, _> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.ask(&Ask::Vote(rpc), &option).await;
        answer.map_err(|error| unreachable(error).into())
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.ask(&Ask::PreVote(rpc), &option).await;
        answer.map_err(|error| unreachable(error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, Content>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let ask = Ask::Snapshot(vote, snapshot.meta, snapshot.snapshot);
        let answer = self.ask(&ask, &option).await;
        answer.map_err(|error| unreachable(error).into())
    }
}
