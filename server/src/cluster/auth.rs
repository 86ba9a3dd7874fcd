//! Who the tool is to a server: a password from a file, or as redis-cli has it from the environment; never from the command line, which others see.

use crate::acl::read_secret_file;
use clap::Args;
use std::fmt;
use std::path::PathBuf;

/// As redis-cli.
const PASSWORD_VAR: &str = "REDISCLI_AUTH";

/// Flags of commands that speak to a server.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct AuthArgs {
    /// File with the password, one line, that others may not read. Without it: the environment's REDISCLI_AUTH, if that is set
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// The user whose password it is; not given: default
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// A name and a password, or nothing.
#[derive(Clone, Default)]
pub(super) struct Credentials(Option<(Option<String>, String)>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl AuthArgs {
    /// What they say, and the environment.
    pub(super) fn credentials(&self) -> Result<Credentials, String> {
        let password = match &self.auth_file {
            Some(path) => {
                Some(read_secret_file(path).map_err(|error| format!("--auth-file {error}"))?)
            }
            None => match std::env::var(PASSWORD_VAR) {
                Ok(password) => Some(password),
                Err(std::env::VarError::NotPresent) => None,
                Err(error) => return Err(format!("{PASSWORD_VAR}: {error}")),
            },
        };
        match (password, &self.user) {
            (None, Some(_)) => Err(format!(
                "--user needs a password: give its file with --auth-file, or {PASSWORD_VAR}"
            )),
            (password, user) => Ok(Credentials(password.map(|p| (user.clone(), p)))),
        }
    }
}

impl Credentials {
    /// The command that logs in; its reply stands before all others.
    pub(super) fn request(&self) -> Option<Vec<u8>> {
        let (user, password) = self.0.as_ref()?;
        let words = std::iter::once("AUTH")
            .chain(user.as_deref())
            .chain([&**password]);
        let mut request = format!("*{}\r\n", words.clone().count());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        Some(request.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_sent_with_its_user_and_shown_nowhere() {
        let of = |user: Option<&str>| Credentials(Some((user.map(str::to_owned), "p w".into())));
        assert_eq!(
            of(None).request().unwrap(),
            b"*2\r\n$4\r\nAUTH\r\n$3\r\np w\r\n"
        );
        assert_eq!(
            of(Some("ann")).request().unwrap(),
            b"*3\r\n$4\r\nAUTH\r\n$3\r\nann\r\n$3\r\np w\r\n"
        );
        assert_eq!(Credentials::default().request(), None);
        assert_eq!(format!("{:?}", of(None)), "Credentials(..)");
    }
}
