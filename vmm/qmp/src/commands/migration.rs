//! Commands about a migration (QEMU `qapi/migration.json`): begin, listen, cancel, query.

use ferry_link::endpoint::Endpoint;
use ferry_migration::Parameters;
use ferry_migration::parameters::Capability;
use ferry_migration::parameters::OwnSettings;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::parameters::{CapabilityState, some};
use super::{Arguments, Outcome, value};
use crate::arguments::{Nothing, read};
use crate::session::Session;
use crate::target::Done;
use crate::wire::CommandError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Migrate {
    uri: Option<String>,
    channels: Option<Vec<Channel>>,
    /// QEMU accepts and ignores it: a migration begun through QMP never blocks the connection.
    #[serde(rename = "detach")]
    _detach: Option<bool>,
    resume: Option<bool>,
    /// Read only for its errors, which name the member: only the members that were given are set.
    #[serde(rename = "x-ferry-parameters")]
    _parameters: Option<Parameters>,
    #[serde(rename = "x-ferry-capabilities", default)]
    capabilities: Vec<CapabilityState>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MigrateRecover {
    uri: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct MigrateIncoming {
    uri: Option<String>,
    channels: Option<Vec<Channel>>,
    exit_on_error: Option<bool>,
}

/// QEMU's `MigrationChannel`, with the transport `socket` only.
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

/// `migrate`. Parameters and capabilities that come with it are in force for this migration alone,
/// and only if it begins.
pub(super) fn migrate(session: &Session, arguments: Arguments) -> Done {
    let given = arguments.get("x-ferry-parameters").and_then(Value::as_object).cloned().unwrap_or_default();
    let arguments = read::<Migrate>(arguments)?;
    let to = endpoint(arguments.uri, arguments.channels)?;
    let parameters = some(given)?;
    let capabilities: Vec<_> = arguments.capabilities.iter().map(|of| (of.capability, of.state)).collect();
    if arguments.resume == Some(true) {
        if !capabilities.is_empty() {
            return Err(CommandError::generic(
                "'x-ferry-capabilities' are of a migration from its beginning; leave them out with 'resume'",
            ));
        }
        return session.target.resume_migration(to, parameters);
    }
    if capabilities.iter().any(|(capability, _)| *capability == Capability::Events) {
        return Err(CommandError::generic(
            "'x-ferry-capabilities' does not take 'events', which is about all clients; use migrate-set-capabilities",
        ));
    }
    session.target.migrate(to, &OwnSettings { parameters, capabilities })
}

pub(super) fn migrate_start_postcopy(session: &Session, _: Nothing) -> Done {
    session.target.start_postcopy()
}

pub(super) fn migrate_pause(session: &Session, _: Nothing) -> Done {
    session.target.pause_migration()
}

pub(super) fn migrate_recover(session: &Session, arguments: MigrateRecover) -> Done {
    session.target.recover(&endpoint(Some(arguments.uri), None)?)
}

pub(super) fn migrate_incoming(session: &Session, arguments: MigrateIncoming) -> Done {
    let at = endpoint(arguments.uri, arguments.channels)?;
    session.target.incoming(&at, arguments.exit_on_error.unwrap_or(true))
}

pub(super) fn migrate_cancel(session: &Session, _: Nothing) -> Done {
    session.target.cancel()
}

pub(super) fn query_migrate(session: &Session, _: Nothing) -> Outcome {
    let mut info = value(session.target.migration())?;
    if let (Value::Object(members), Some(at)) = (&mut info, session.target.listening()) {
        members.insert("socket-address".into(), json!([socket_address(&at)]));
    }
    if let (Value::Object(members), Some((parameters, capabilities))) = (&mut info, session.target.in_force()) {
        let parameters = own_parameters(value(parameters)?, &value(session.target.parameters())?);
        let capabilities = own_capabilities(session, &capabilities);
        if !parameters.is_empty() {
            members.insert("x-ferry-parameters".into(), parameters.into());
        }
        if !capabilities.is_empty() {
            members.insert("x-ferry-capabilities".into(), value(capabilities)?);
        }
    }
    Ok(info)
}

/// The parameters of a migration that differ from its process's.
fn own_parameters(migration: Value, process: &Value) -> Map<String, Value> {
    let Value::Object(members) = migration else { return Map::new() };
    members.into_iter().filter(|(name, value)| process.get(name) != Some(value)).collect()
}

/// The capabilities of a migration that differ from its process's.
fn own_capabilities(session: &Session, on: &[Capability]) -> Vec<CapabilityState> {
    let all = Capability::ALL.into_iter().filter(|capability| *capability != Capability::Events);
    all.map(|capability| CapabilityState { capability, state: on.contains(&capability) })
        .filter(|of| session.target.has(of.capability) != of.state)
        .collect()
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
