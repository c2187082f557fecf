//! Commands about a migration (QEMU `qapi/migration.json`): begin, listen, cancel, ask.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Outcome, value};
use crate::endpoint::Endpoint;
use crate::qmp::arguments::Nothing;
use crate::qmp::session::Session;
use crate::qmp::target::Done;
use crate::qmp::wire::CommandError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    uri: Option<String>,
    channels: Option<Vec<Channel>>,
    /// QEMU takes and ignores it: a migration begun through QMP never holds the connection.
    #[serde(rename = "detach")]
    _detach: Option<bool>,
    resume: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateRecover {
    uri: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MigrateIncoming {
    uri: Option<String>,
    channels: Option<Vec<Channel>>,
    exit_on_error: Option<bool>,
}

/// QEMU's `MigrationChannel`; of its transports, sockets.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Channel {
    #[serde(rename = "channel-type")]
    _kind: ChannelType,
    addr: Address,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ChannelType {
    Main,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    #[serde(rename = "transport")]
    _transport: Transport,
    r#type: SocketType,
    host: Option<String>,
    port: Option<String>,
    path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Transport {
    Socket,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SocketType {
    Inet,
    Unix,
}

pub fn migrate(session: &Session, arguments: Migrate) -> Done {
    let to = endpoint(arguments.uri, arguments.channels)?;
    if arguments.resume == Some(true) { session.target.resume_migration(to) } else { session.target.migrate(to) }
}

pub fn migrate_start_postcopy(session: &Session, _: Nothing) -> Done {
    session.target.start_postcopy()
}

pub fn migrate_pause(session: &Session, _: Nothing) -> Done {
    session.target.pause_migration()
}

pub fn migrate_recover(session: &Session, arguments: MigrateRecover) -> Done {
    session.target.recover(&endpoint(Some(arguments.uri), None)?)
}

pub fn migrate_incoming(session: &Session, arguments: MigrateIncoming) -> Done {
    let at = endpoint(arguments.uri, arguments.channels)?;
    session.target.incoming(&at, arguments.exit_on_error.unwrap_or(true))
}

pub fn migrate_cancel(session: &Session, _: Nothing) -> Done {
    session.target.cancel()
}

pub fn query_migrate(session: &Session, _: Nothing) -> Outcome {
    let mut info = value(session.target.migration())?;
    if let (Value::Object(members), Some(at)) = (&mut info, session.target.listening()) {
        members.insert("socket-address".into(), json!([socket_address(&at)]));
    }
    Ok(info)
}

/// QEMU's `SocketAddress` (`qapi/sockets.json`).
fn socket_address(at: &Endpoint) -> Value {
    match at {
        Endpoint::Tcp { host, port } => json!({ "type": "inet", "host": host, "port": port.to_string() }),
        Endpoint::Unix(path) => json!({ "type": "unix", "path": path }),
    }
}

fn endpoint(uri: Option<String>, channels: Option<Vec<Channel>>) -> Result<Endpoint, CommandError> {
    let generic = |text: &str| CommandError::generic(text);
    let text = match (uri, channels) {
        (Some(_), Some(_)) => return Err(generic("'uri' and 'channels' arguments are mutually exclusive; give one")),
        (None, None) => return Err(generic("Parameter 'uri' is missing")),
        (Some(uri), None) => uri,
        (None, Some(channels)) => {
            let Ok([channel]) = <[Channel; 1]>::try_from(channels) else {
                return Err(generic("Parameter 'channels' must hold one channel, of channel-type main"));
            };
            channel.addr.text()?
        }
    };
    text.parse().map_err(|error| CommandError::from_chain(&error))
}

impl Address {
    /// The address as Ferry writes it, so that one parser checks both forms.
    fn text(self) -> Result<String, CommandError> {
        let need = |member: Option<String>, name| {
            member.ok_or_else(|| CommandError::generic(format!("Parameter 'channels[0].addr.{name}' is missing")))
        };
        match self.r#type {
            SocketType::Inet => Ok(format!("tcp:{}:{}", need(self.host, "host")?, need(self.port, "port")?)),
            SocketType::Unix => Ok(format!("unix:{}", need(self.path, "path")?)),
        }
    }
}
