//! Saving, loading, and moving a guest to a second machine in this process.

use ferry_devices::fault::FaultSpec;
use ferry_migration::Section;
use ferry_migration::pages::{PAGE_SIZE, PageBitmap};

use super::*;

const WORK: &str = "ferry.report=100";

/// Copies RAM from one stopped machine to another.
fn copy_memory(from: &Machine, to: &Machine) {
    let populated = from.memory().populated().unwrap();
    for page in (0..populated.pages()).filter(|page| populated.contains(*page)) {
        let (source, destination) = (from.memory().host_pages(page).0, to.memory().host_pages(page).0);
        // SAFETY: both pages are mapped, and nothing runs on either machine.
        unsafe { std::ptr::copy_nonoverlapping(source, destination, PAGE_SIZE as usize) };
    }
}

fn rule(text: &str) -> FaultSpec {
    text.parse().unwrap()
}

#[test]
fn a_guest_goes_on_in_another_machine() {
    if !has_kvm() {
        return;
    }
    let source = Rig::new(WORK, |_| {});
    source.wait_for("ferry r c=0", 2);
    let destination = Rig::new("", |config| config.incoming = true);
    assert_eq!(destination.machine.run_state(), RunState::InMigrate);
    let same = ferry_migration::description::check(&source.machine.description(), &destination.machine.description());
    same.unwrap();

    destination.machine.load(&source.machine.snapshot().unwrap()).unwrap();
    source.wait_for("ferry r c=0", 3);
    let stopped = source.machine.hold(Hold::Switchover).unwrap();
    stopped.quiesce().unwrap();
    stopped.release_resources().unwrap();
    let [serial] = &stopped.outputs().unwrap()[..] else { panic!("the serial port is the only output") };
    assert_eq!((serial.device.as_str(), serial.position), ("serial/0", source.text().len() as u64));
    let package = stopped.save().unwrap();
    copy_memory(&source.machine, &destination.machine);
    destination.machine.load(&package).unwrap();
    assert_eq!(destination.machine.first_entry(), None);
    let before = Instant::now();
    destination.machine.release_hold().unwrap();
    let entered = destination.machine.first_entry().unwrap();
    assert!((before..=Instant::now()).contains(&entered));
    assert!(source.machine.first_entry().unwrap() < before);
    source.machine.hold(Hold::HandedOver).unwrap();

    assert_eq!(destination.machine.run_state(), RunState::Running);
    destination.wait_event(&Event::Resume);
    destination.wait_for("ferry r c=0", 3);
    destination.wait_for("ferry r c=1", 3);
    assert!(!destination.text().contains("ferry boot"), "it went on, it did not boot");
    destination.assert_no_errors();
    assert!(source.machine.cont().is_err());

    destination.machine.stop().unwrap();
    let before = Instant::now();
    destination.machine.cont().unwrap();
    assert!(destination.machine.first_entry().unwrap() >= before, "each time anew");
}

#[test]
fn a_guest_that_could_not_start_leaves_nothing_to_the_next_one() {
    if !has_kvm() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let disk = |name: &str, bytes| {
        let path = images.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        Some(DiskConfig { path, read_only: false, raw: false })
    };
    let capacity = |rig: &Rig| rig.machine.description().devices.iter().find_map(|device| device.capacity);
    // The destination's image has room for either.
    let [small, large] = [("small", 1 << 20), ("large", 2 << 20)].map(|(name, bytes)| {
        let disk = disk(name, bytes);
        Rig::new(WORK, |config| config.disk = disk)
    });
    let shared = disk("shared", 4 << 20);
    let destination = Rig::new("", |config| (config.incoming, config.disk) = (true, shared.clone()));
    let offer = destination.machine.description();

    let stopped = small.machine.hold(Hold::Switchover).unwrap();
    // Carried out when the guest starts, which can fail then.
    small.machine.reset().unwrap();
    destination.machine.load(&stopped.save().unwrap()).unwrap();
    destination.machine.set_fault(rule("at=disk:lock,do=errno:EIO")).unwrap();
    destination.machine.release_hold().unwrap_err();
    assert!(destination.machine.description() == offer, "its disk could not be had");
    destination.machine.faults().clear();
    destination.machine.set_fault(rule("at=KVM_SET_PIT2,do=fail")).unwrap();
    destination.machine.release_hold().unwrap_err();
    assert!(destination.machine.description() == offer, "it could not start");
    destination.machine.faults().clear();

    let stopped = large.machine.hold(Hold::Switchover).unwrap();
    destination.machine.load(&stopped.save().unwrap()).unwrap();
    copy_memory(&large.machine, &destination.machine);
    destination.machine.release_hold().unwrap();
    assert_eq!(capacity(&destination), Some(2 << 20));
    destination.assert_no_errors();
}

#[test]
fn loading_twice_is_loading_once() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(WORK, |_| {});
    rig.wait_for("ferry r c=0", 1);
    let stopped = rig.machine.hold(Hold::Switchover).unwrap();
    let before = stopped.save().unwrap();
    for _ in 0..2 {
        rig.machine.load(&before).unwrap();
    }
    let after = stopped.save().unwrap();
    assert_eq!(timeless(&before), timeless(&after));
    rig.machine.release_hold().unwrap();
    let reports = rig.text().matches("ferry r ").count();
    rig.wait_for("ferry r ", reports + 4);
    rig.assert_no_errors();
}

/// What does not run on by itself. The vCPUs' own test compares them without their clocks.
fn timeless(sections: &[Section]) -> Vec<Section> {
    let timeless = |section: &&Section| !["vcpu", "kvmclock", "pit"].contains(&section.device.as_str());
    sections.iter().filter(timeless).cloned().collect()
}

#[test]
fn what_a_rehearsal_has_loaded_does_not_leak_into_what_is_loaded_at_last() {
    if !has_kvm() {
        return;
    }
    let source = Rig::new(WORK, |_| {});
    source.wait_for("ferry r c=0", 1);
    let rehearsed = source.machine.snapshot().unwrap();
    source.wait_for("ferry r c=0", 3);
    let stopped = source.machine.hold(Hold::Switchover).unwrap();
    stopped.quiesce().unwrap();
    let last = stopped.save().unwrap();
    assert_ne!(rehearsed, last, "the guest has gone on");
    let [with, without] = [true, false].map(|rehearse| {
        let destination = Rig::new("", |config| config.incoming = true);
        if rehearse {
            destination.machine.load(&rehearsed).unwrap();
        }
        copy_memory(&source.machine, &destination.machine);
        destination.machine.load(&last).unwrap();
        destination.machine.snapshot().unwrap()
    });
    assert_eq!(timeless(&with), timeless(&without));
    assert_eq!(timeless(&with), timeless(&last));
}

#[test]
fn a_wrong_set_of_states_is_refused_by_name() {
    if !has_kvm() {
        return;
    }
    let source = Rig::new(WORK, |_| {});
    let good = source.machine.snapshot().unwrap();
    let destination = Rig::new("", |config| config.incoming = true);
    let refused = |change: &dyn Fn(&mut Vec<Section>)| {
        let mut sections = good.clone();
        change(&mut sections);
        destination.machine.load(&sections).unwrap_err().to_string()
    };
    let at = |name: &str| good.iter().position(|section| section.name() == name).unwrap();
    assert!(refused(&|all| drop(all.remove(at("vcpu/1")))).starts_with("vcpu/1: no state came"));
    assert!(refused(&|all| all.push(all[0].clone())).starts_with("vcpu/0: its state came twice"));
    assert!(refused(&|all| all[at("serial/0")].instance = 7).starts_with("serial/0: no state came"));
    assert!(refused(&|all| all.push(Section { instance: 9, ..all[0].clone() })).starts_with("vcpu/9: no such device"));
    for (index, section) in good.iter().enumerate() {
        let name = section.name();
        assert!(refused(&|all| all[index].version = 99).starts_with(&name), "{name}");
        assert!(refused(&|all| all[index].payload.truncate(section.payload.len() - 1)).starts_with(&name), "{name}");
        assert!(refused(&|all| all[index].payload.push(0)).starts_with(&name), "{name}");
    }
    destination.machine.load(&good).unwrap();
}

#[test]
fn a_fault_is_reported_and_the_next_try_succeeds() {
    if !has_kvm() {
        return;
    }
    let source = Rig::new(WORK, |_| {});
    let package = source.machine.snapshot().unwrap();
    let destination = Rig::new("", |config| {
        config.incoming = true;
        config.faults = vec![rule("at=post_load,do=fail,times=1,in=incoming"), rule("at=load,do=hang,times=1")];
    });
    let machine = destination.machine.clone();
    let hanging = {
        let package = package.clone();
        std::thread::spawn(move || machine.load(&package).unwrap_err().to_string())
    };
    let deadline = Instant::now() + PATIENCE;
    while !destination.machine.faults().is_waiting() {
        assert!(Instant::now() < deadline, "the load does not hang");
        std::thread::yield_now();
    }
    assert_eq!(destination.machine.run_state(), RunState::InMigrate, "the state can be asked meanwhile");
    destination.machine.interrupt_faults();
    assert_eq!(hanging.join().unwrap(), "fault/0: told to fail in load");
    let error = destination.machine.load(&package).unwrap_err().to_string();
    assert_eq!(error, "fault/0: told to fail in post_load");
    destination.machine.load(&package).unwrap();

    source.machine.faults().set(rule("at=save,do=fail,times=1")).unwrap();
    assert_eq!(source.machine.snapshot().unwrap_err().to_string(), "fault/0: told to fail in save");
    assert_eq!(source.machine.run_state(), RunState::Running);
    source.machine.snapshot().unwrap();
}

#[test]
fn the_operators_request_travels_and_the_local_one_counts_more() {
    if !has_kvm() {
        return;
    }
    let source = Rig::new(WORK, |_| {});
    source.machine.stop().unwrap();
    let paused = source.machine.snapshot().unwrap();
    let destination = Rig::new("", |config| config.incoming = true);
    destination.machine.load(&paused).unwrap();
    copy_memory(&source.machine, &destination.machine);
    destination.machine.release_hold().unwrap();
    assert_eq!(destination.machine.run_state(), RunState::Paused);

    let other = Rig::new("", |config| config.incoming = true);
    other.machine.cont().unwrap();
    other.machine.load(&paused).unwrap();
    assert!(other.machine.wants_to_run());
}

#[test]
fn nothing_is_read_from_a_stop_that_is_over() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(WORK, |_| {});
    rig.wait_for("ferry r c=0", 1);
    rig.machine.dirty_log().start().unwrap();
    let stopped = rig.machine.hold(Hold::Switchover).unwrap();
    let mut written = PageBitmap::new(rig.machine.memory().pages());
    stopped.harvest(&mut written).unwrap();
    stopped.save().unwrap();
    rig.machine.release_hold().unwrap();
    let reports = rig.text().matches("ferry r ").count();
    rig.wait_for("ferry r ", reports + 1);
    // The guest is stopped again, and has run in between.
    let again = rig.machine.hold(Hold::Switchover).unwrap();
    assert!(stopped.save().unwrap_err().to_string().contains("has run on"));
    assert!(stopped.outputs().unwrap_err().to_string().contains("has run on"));
    assert!(stopped.harvest(&mut written).unwrap_err().to_string().contains("has run on"));
    assert!(stopped.release_resources().is_err(), "the disk is the guest's");
    again.save().unwrap();
    rig.machine.release_hold().unwrap();
    // A rehearsal lets the guest run on, and a stop of that kind is over with it.
    let mut kept = None;
    rig.machine
        .while_stopped("saving device state", |stopped| {
            kept = Some(stopped.clone());
            stopped.save()
        })
        .unwrap();
    assert!(kept.unwrap().save().is_err());
}

#[test]
fn saving_takes_little_time() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(WORK, |_| {});
    rig.wait_for("ferry r c=0", 1);
    let stopped = rig.machine.hold(Hold::Switchover).unwrap();
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let began = Instant::now();
            let package = stopped.save().unwrap();
            let saved = began.elapsed();
            rig.machine.load(&package).unwrap();
            (saved, began.elapsed() - saved)
        })
        .collect();
    times.sort_unstable();
    eprintln!("save of 2 vCPUs and all devices: p50 {:?}, p99 {:?}", times[100].0, times[198].0);
    times.sort_unstable_by_key(|(_, load)| *load);
    eprintln!("load of the same: p50 {:?}, p99 {:?}", times[100].1, times[198].1);
}

#[test]
fn rules_may_name_any_device_and_call_and_nothing_that_is_not_here() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new(WORK, |config| config.paused = true);
    let machine = &rig.machine;
    let refused = |text: &str| machine.set_fault(rule(text)).unwrap_err().to_string();
    assert!(refused("at=KVM_SET_NOTHING,do=fail").contains("KVM_GET_REGS, KVM_GET_SREGS"));
    assert!(refused("at=KVM_SET_REGS,do=fail,of=vcpu/2").ends_with("write of= with one of vcpu/0, vcpu/1"));
    assert!(refused("at=KVM_SET_PIT2,do=fail,of=vcpu/0").ends_with("write of= with one of pit/0"));
    assert!(refused("at=load,do=fail,of=virtio-blk/0").ends_with("write of= with one of serial/0, fault/0"));
    assert!(machine.faults().rules().is_empty());

    let state = machine.snapshot().unwrap();
    for (text, failure) in [
        ("at=load,do=fail,of=serial/0", "serial/0: told to fail in load"),
        ("at=post_load,do=fail,of=serial/0", "serial/0: told to fail in post_load"),
        ("at=load,do=fail,of=fault/0", "fault/0: told to fail in load"),
        ("at=KVM_SET_LAPIC,do=fail,of=vcpu/1", "vcpu/1: KVM_SET_LAPIC: Invalid argument (os error 22)"),
        ("at=KVM_SET_IRQCHIP,do=fail", "irqchip/0: KVM_SET_IRQCHIP: Invalid argument (os error 22)"),
    ] {
        machine.set_fault(rule(text)).unwrap();
        assert_eq!(machine.load(&state).unwrap_err().to_string(), failure);
        machine.faults().clear();
        machine.load(&state).unwrap();
    }
    machine.set_fault(rule("at=save,do=fail,of=serial/0,times=1")).unwrap();
    assert_eq!(machine.snapshot().unwrap_err().to_string(), "serial/0: told to fail in save");
    machine.snapshot().unwrap();
}
