//! As much RESP as the client speaks.

use crate::{Failure, Node, Put};
use bytes::Bytes;
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub(crate) async fn serve(listener: TcpListener, node: Node) -> Result<(), Failure> {
    loop {
        let (stream, _) = listener.accept().await?;
        let node = node.clone();
        tokio::spawn(async move { answer(stream, &node).await });
    }
}

fn number(line: &str, mark: char) -> io::Result<usize> {
    let number = line.trim().strip_prefix(mark).and_then(|n| n.parse().ok());
    number
        .filter(|n| *n <= 1 << 20)
        .ok_or_else(|| io::Error::other(format!("{line:?} is no number of RESP")))
}

/// A command's words; none at the end.
async fn command(from: &mut BufReader<TcpStream>) -> io::Result<Vec<Bytes>> {
    let mut line = String::new();
    from.read_line(&mut line).await?;
    if !line.starts_with('*') {
        return Ok(line
            .split_whitespace()
            .map(|w| w.to_owned().into())
            .collect());
    }
    let mut words = Vec::new();
    for _ in 0..number(&line, '*')? {
        line.clear();
        from.read_line(&mut line).await?;
        let mut word = vec![0; number(&line, '$')? + 2];
        from.read_exact(&mut word).await?;
        word.truncate(word.len() - 2);
        words.push(word.into());
    }
    Ok(words)
}

async fn answer(stream: TcpStream, node: &Node) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let words = command(&mut stream).await?;
        let reply = match &words[..] {
            [] => return Ok(()),
            [quit] if &**quit == b"QUIT" => return Ok(()),
            [set, key, value] if &**set == b"SET" => {
                let (key, value) = (key.clone(), value.clone());
                match node.client_write(Put { key, value }).await {
                    Ok(_) => "+OK\r\n".to_owned(),
                    Err(error) => format!("-ERR {error}").replace(['\r', '\n'], " ") + "\r\n",
                }
            }
            [info, ..] if &**info == b"INFO" => {
                let role = match node.is_leader() {
                    true => "raft_role:leader",
                    false => "raft_role:follower",
                };
                format!("${}\r\n{role}\r\n", role.len())
            }
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        stream.write_all(reply.as_bytes()).await?;
    }
}
