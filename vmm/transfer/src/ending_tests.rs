//! A process that ends because its incoming migration has failed takes no other one.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use ferry_link::endpoint::Endpoint;
use ferry_machine::testing::has_kvm;
use ferry_machine::{Machine, MachineConfig, SerialSink};
use ferry_migration::wire::preamble::{LinkRole, Preamble};
use ferry_observe::events::Events;

use super::{MigrationError, Migrations};

/// A machine that waits for a guest.
fn destination() -> (Arc<Machine>, Arc<Migrations>) {
    let config = MachineConfig { incoming: true, serial: SerialSink::Null, ..MachineConfig::default() };
    let events = Arc::new(Events::default());
    let machine = Arc::new(Machine::build(&config, events.clone()).unwrap());
    let migrations = Migrations::new(machine.clone(), events, None);
    (machine, migrations)
}

/// A source that goes with its first word.
fn fails(at: &Endpoint) {
    let preamble = Preamble { migration_id: 7, connection: 0, link: LinkRole::Control };
    let mut source = TcpStream::connect(at.to_string().trim_start_matches("tcp:")).unwrap();
    source.write_all(&preamble.encode()).unwrap();
}

#[test]
fn a_process_that_ends_because_its_migration_failed_takes_no_other_one() {
    if !has_kvm() {
        return;
    }
    let (machine, migrations) = destination();
    let anywhere: Endpoint = "tcp:127.0.0.1:0".parse().unwrap();
    fails(&migrations.incoming(&anywhere).unwrap());
    let mut told = None;
    migrations.follow_incoming(|error| {
        // A client may have read of the failure already.
        let early = migrations.incoming(&anywhere).unwrap_err();
        assert!(matches!(early, MigrationError::Listening(_)), "{early}");
        machine.quit();
        let late = migrations.incoming(&anywhere).unwrap_err();
        assert!(matches!(late, MigrationError::Ending), "{late}");
        told = Some(error);
    });
    assert!(matches!(told, Some(MigrationError::Incoming(_))), "{told:?}");
    let after = migrations.incoming(&anywhere).unwrap_err();
    assert!(matches!(after, MigrationError::Ending), "{after}");
}
