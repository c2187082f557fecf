//! What this guest will do: the command line, met with the memory, the processor and the disk that
//! are there. Processor 0 makes the plan and prints the `boot` line; all processors follow it.

use crate::cpu::Shared;
use crate::disk::DiskWork;
use crate::lines::{Boot, Disk, Line, Simd, Timer};
use crate::log::Log;
use crate::pages::{Layout, PAGE};
use crate::pvh::{self, BootInfo, Range};
use crate::workload::{Switch, Workload};
use crate::{kvmclock, paging, registers, time, timer};

/// What this guest will do.
pub struct Plan {
    pub workload: Workload,
    pub layout: Layout,
    pub simd: Simd,
    pub timer: Timer,
    pub kvmclock: bool,
}

static PLAN: Shared<Option<Plan>> = Shared::new(None);

/// The plan, once [`Plan::make`] has made it.
pub fn get() -> &'static Plan {
    // SAFETY: processor 0 writes it once, before any other processor starts.
    unsafe { (*PLAN.get()).as_ref() }.expect("the plan is made before anyone follows it")
}

impl Plan {
    /// Makes the plan, opens the disk, and says so.
    pub fn make(boot: &BootInfo, log: &mut Log) -> (&'static Plan, Option<DiskWork>) {
        let workload = Workload::parse(boot.cmdline, |_| ());
        let kvmclock = kvmclock::available();
        if kvmclock {
            kvmclock::enable(0);
        }
        let tsc_source = time::calibrate(kvmclock);
        let simd = if workload.simd == Switch::On { registers::probe() } else { Simd::Off };
        let [low, high] = free_memory(boot);
        let layout = Layout::fit(workload.working_set.div_ceil(PAGE), low, high);
        let plan = Plan { workload, layout, simd, timer: timer::kind(), kvmclock };
        // SAFETY: nobody else runs yet.
        let plan: &'static Plan = unsafe { (*PLAN.get()).insert(plan) };
        let disk = match plan.workload.disk {
            Switch::On => DiskWork::open(boot.cmdline, plan.workload.seed),
            Switch::Off => Ok(None),
        };
        log.print(&Line::Boot(Boot {
            cpus: plan.workload.cpus,
            memory_bytes: boot.ram().iter().map(|ram| ram.size()).sum(),
            working_set_bytes: layout.count * PAGE,
            tsc_khz: time::khz(),
            tsc_source,
            simd,
            kvmclock,
            timer: plan.timer,
            disk: disk.as_ref().ok().and_then(Option::as_ref).map_or(Disk::None, DiskWork::kind),
        }));
        Workload::parse(boot.cmdline, |word| {
            log.error(format_args!("command line: '{word}' is no known ferry. key with a value in its range"));
        });
        if layout.count < plan.workload.cpus.into() {
            panic!("there is less free memory than a page for each vCPU: give the guest 16 MiB or more");
        }
        let disk = disk.unwrap_or_else(|why| {
            log.error(format_args!("disk: {why}"));
            None
        });
        (plan, disk)
    }
}

/// The RAM behind the image, and that above 4 GiB.
fn free_memory(boot: &BootInfo) -> [Range; 2] {
    const HOLE_END: u64 = 4 << 30;
    let image_end = pvh::image_end().next_multiple_of(PAGE);
    let find = |wanted: &dyn Fn(&Range) -> bool| boot.ram().iter().copied().find(wanted).unwrap_or_default();
    let mut low = find(&|ram| ram.start < image_end && image_end < ram.end);
    low.start = image_end;
    let mut high = find(&|ram| ram.start >= HOLE_END);
    high.end = high.end.min(paging::LIMIT) / PAGE * PAGE;
    [low, high]
}
