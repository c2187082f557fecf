//! What the guest is to do, as a type and as kernel command line: the one definition that kernel
//! and host share.
//!
//! The host builds a [`Workload`] and prints it; the kernel (which includes this file by path)
//! reads it back. Only `core` is used.

use core::fmt::{self, Display, Formatter};

use crate::lines::words;

/// What the guest is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `ferry.cpus`: vCPUs, from 1 to 16; must be what the VMM has.
    pub cpus: u32,
    /// `ferry.ws`: bytes of the working set, over all vCPUs. Capped to the RAM that there is.
    pub working_set: u64,
    /// `ferry.rate`: how fast pages are touched, over all vCPUs.
    pub rate: Rate,
    /// `ferry.order`: in which order.
    pub order: Order,
    /// `ferry.report`: milliseconds between two reports of a vCPU, at least 1.
    pub report_ms: u64,
    /// `ferry.disk`: use the disk, if there is one.
    pub disk: Switch,
    /// `ferry.simd`: check the vector registers.
    pub simd: Switch,
    /// `ferry.idle`: what a vCPU does until the next page is due.
    pub idle: Idle,
    /// `ferry.runtime`: milliseconds from vCPU 0's `ready` to the end by itself; 0 for never.
    pub runtime_ms: u64,
    /// `ferry.reports`: reports of vCPU 0 until the end by itself (the last report of each vCPU
    /// comes on top); 0 for no limit.
    pub reports: u64,
    /// `ferry.exit`: how it ends by itself.
    pub exit: Exit,
    /// `ferry.seed`: goes into every stamp and into the random order, so that two runs can be told
    /// apart.
    pub seed: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            cpus: 1,
            working_set: 4 << 20,
            rate: Rate::BytesPerSecond(16 << 20),
            order: Order::Seq,
            report_ms: 1000,
            disk: Switch::On,
            simd: Switch::On,
            idle: Idle::Hlt,
            runtime_ms: 0,
            reports: 0,
            exit: Exit::Shutdown,
            seed: 1,
        }
    }
}

/// How fast pages are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as it goes.
    Max,
    /// Bytes of touched pages a second, so a 4096th of it in pages a second. At least 4096.
    BytesPerSecond(u64),
}

words! {
    /// The order of page touches.
    Order {
        /// By rising address, again and again.
        Seq = "seq",
        /// Uniformly at random.
        Rand = "rand",
    }
}

words! {
    /// Yes or no.
    Switch {
        /// Yes.
        On = "on",
        /// No.
        Off = "off",
    }
}

words! {
    /// What a vCPU does while no page is due.
    Idle {
        /// Sleeps until its timer fires: kind to the host; a gap includes the wake-up.
        Hlt = "hlt",
        /// Spins: takes a host CPU, sees the shortest gaps.
        Spin = "spin",
    }
}

words! {
    /// How the guest ends.
    Exit {
        /// Powers off.
        Shutdown = "shutdown",
        /// Resets.
        Reboot = "reboot",
    }
}

impl Workload {
    /// Reads a kernel command line. Words that do not begin with `ferry.` are other people's. What
    /// cannot be understood is handed to `complain`, and the default stands.
    pub fn parse<'a>(cmdline: &'a str, mut complain: impl FnMut(&'a str)) -> Self {
        let mut workload = Self::default();
        for word in cmdline.split_ascii_whitespace().filter(|word| word.starts_with("ferry.")) {
            let known = word["ferry.".len()..].split_once('=').and_then(|(key, value)| workload.set(key, value));
            if known.is_none() {
                complain(word);
            }
        }
        workload
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "cpus" => self.cpus = u32::try_from(number(value)?).ok().filter(|cpus| (1..=16).contains(cpus))?,
            "ws" => self.working_set = number(value)?,
            "rate" if value == "max" => self.rate = Rate::Max,
            "rate" => self.rate = Rate::BytesPerSecond(number(value).filter(|rate| *rate >= 4096)?),
            "order" => self.order = Order::from_word(value)?,
            "report" => self.report_ms = number(value).filter(|ms| *ms > 0)?,
            "disk" => self.disk = Switch::from_word(value)?,
            "simd" => self.simd = Switch::from_word(value)?,
            "idle" => self.idle = Idle::from_word(value)?,
            "runtime" => self.runtime_ms = number(value)?,
            "reports" => self.reports = number(value)?,
            "exit" => self.exit = Exit::from_word(value)?,
            "seed" => self.seed = number(value)?,
            _ => return None,
        }
        Some(())
    }
}

/// A decimal number, perhaps with a unit: K, M or G (powers of 1024).
fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value: u64 = digits.parse().ok()?;
    value.checked_mul(1 << shift)
}

impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Max => f.write_str("max"),
            Rate::BytesPerSecond(bytes) => bytes.fmt(f),
        }
    }
}

impl Display for Workload {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        let mut separator = "";
        let mut pair = |key: &str, differs: bool, value: &dyn Display| {
            if !differs {
                return Ok(());
            }
            write!(f, "{separator}ferry.{key}={value}")?;
            separator = " ";
            Ok(())
        };
        pair("cpus", self.cpus != default.cpus, &self.cpus)?;
        pair("ws", self.working_set != default.working_set, &self.working_set)?;
        pair("rate", self.rate != default.rate, &self.rate)?;
        pair("order", self.order != default.order, &self.order)?;
        pair("report", self.report_ms != default.report_ms, &self.report_ms)?;
        pair("disk", self.disk != default.disk, &self.disk)?;
        pair("simd", self.simd != default.simd, &self.simd)?;
        pair("idle", self.idle != default.idle, &self.idle)?;
        pair("runtime", self.runtime_ms != default.runtime_ms, &self.runtime_ms)?;
        pair("reports", self.reports != default.reports, &self.reports)?;
        pair("exit", self.exit != default.exit, &self.exit)?;
        pair("seed", self.seed != default.seed, &self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unusual() -> Workload {
        Workload {
            cpus: 4,
            working_set: 512 << 20,
            rate: Rate::Max,
            order: Order::Rand,
            report_ms: 50,
            disk: Switch::Off,
            simd: Switch::Off,
            idle: Idle::Spin,
            runtime_ms: 10_000,
            reports: 3,
            exit: Exit::Reboot,
            seed: u64::MAX,
        }
    }

    fn parse(cmdline: &str) -> (Workload, Vec<&str>) {
        let mut complaints = Vec::new();
        let workload = Workload::parse(cmdline, |word| complaints.push(word));
        (workload, complaints)
    }

    #[test]
    fn a_command_line_reads_back_as_written() {
        for workload in [Workload::default(), unusual()] {
            assert_eq!(parse(&workload.to_cmdline()), (workload, vec![]));
        }
    }

    #[test]
    fn only_what_differs_from_the_default_is_written() {
        assert_eq!(Workload::default().to_cmdline(), "");
        let workload = Workload { cpus: 2, rate: Rate::BytesPerSecond(4096), ..Workload::default() };
        assert_eq!(workload.to_cmdline(), "ferry.cpus=2 ferry.rate=4096");
        assert_eq!(unusual().to_cmdline().split(' ').count(), 12);
    }

    #[test]
    fn sizes_take_units() {
        for (text, bytes) in [("4096", 4096), ("64K", 64 << 10), ("3M", 3 << 20), ("2G", 2 << 30)] {
            assert_eq!(parse(&format!("ferry.ws={text}")).0.working_set, bytes);
            assert_eq!(parse(&format!("ferry.rate={text}")).0.rate, Rate::BytesPerSecond(bytes));
        }
    }

    #[test]
    fn what_is_not_understood_is_complained_about_and_nothing_else() {
        let words = [
            "ferry.ws",
            "ferry.ws=",
            "ferry.ws=K",
            "ferry.ws=-1",
            "ferry.ws=99999999999999999999",
            "ferry.ws=18014398509481985K",
            "ferry.cpus=0",
            "ferry.cpus=17",
            "ferry.rate=4095",
            "ferry.report=0",
            "ferry.order=down",
            "ferry.=1",
            "ferry.speed=1",
        ];
        assert_eq!(parse(&words.join(" ")), (Workload::default(), words.to_vec()));
        let others = "console=ttyS0 virtio_mmio.device=512@0xd0000000:5 ferryboat=1 ferry";
        assert_eq!(parse(others), (Workload::default(), vec![]));
    }
}
