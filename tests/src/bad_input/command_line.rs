//! Every option of `ferry` with values that cannot work. All of these are bad usage: exit
//! status 2.

use super::{Row, answer, run_to_end};
use crate::Lab;

/// Arguments, and what the answer must hold.
const CASES: &[(&str, &str)] = &[
    ("", "exit 2"),
    ("sail", "unrecognized subcommand 'sail'"),
    ("run --nonsense", "unexpected argument '--nonsense'"),
    ("run --memory 0", "give 16M to 16G, a multiple of 2M"),
    ("run --memory 15M", "give 16M to 16G, a multiple of 2M"),
    ("run --memory 17G", "give 16M to 16G, a multiple of 2M"),
    ("run --memory 33M", "give 16M to 16G, a multiple of 2M"),
    ("run --memory 99999999999999999999G", "--memory"),
    ("run --memory=-1M", "--memory"),
    ("run --memory 64X", "--memory"),
    ("run --memory many", "--memory"),
    ("run --memory 64M,backing=disk", "give backing=memfd or backing=anon"),
    ("run --memory 64M,prealloc=maybe", "give prealloc=on or prealloc=off"),
    ("run --memory 64M,colour=blue", "--memory"),
    ("run --cpus 0", "1..=16"),
    ("run --cpus 17", "1..=16"),
    ("run --cpus two", "--cpus"),
    ("run --disk disk.img,writeonly", "only readonly and format=raw may follow the path"),
    ("run --disk disk,1.img", "a comma in the path is written twice"),
    ("run --disk ,readonly", "write PATH, or PATH,readonly"),
    (
        "run --disk nowhere.img --serial file:nowhere.img",
        "--disk nowhere.img and --serial file:nowhere.img name the same file",
    ),
    ("run --qmp unix:nowhere.sock --trace nowhere.sock", "name the same file"),
    ("run --name xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "use 1 to 64 bytes"),
    ("run --name a\u{7}b", "holds control characters"),
    ("run --serial tty", "write stdio, file:PATH or null"),
    ("run --serial file:", "write stdio, file:PATH or null"),
    ("run --qmp /tmp/socket", "write unix:PATH"),
    ("run --qmp tcp:127.0.0.1:4444", "write unix:PATH"),
    ("run --qmp unix:", "path is empty"),
    (
        "run --qmp unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "the socket's name is longer than 64 bytes",
    ),
    ("run --incoming 4444", "write tcp:HOST:PORT or unix:PATH, or defer"),
    ("run --incoming tcp:127.0.0.1", "the port is missing"),
    ("run --incoming tcp::4444", "the host is empty"),
    ("run --incoming tcp:127.0.0.1:70000", "0 to 65535"),
    ("run --incoming tcp:127.0.0.1:+1", "0 to 65535"),
    ("run --incoming udp:127.0.0.1:4444", "write tcp:HOST:PORT or unix:PATH, or defer"),
    ("run --device virtio-net", "write fault,at=…,do=…"),
    ("run --device fault,at=sometimes,do=fail", "write at=save|load|post_load"),
    ("run --device fault,at=KVM_SET_NOTHING,do=fail", "write one of KVM_GET_MP_STATE"),
    ("run --device fault,at=load,do=fail,of=serial", "of=PART, for example serial/0"),
    ("run --device fault,at=load,do=explode", "fail|hang|delay:MS"),
    ("run --device fault,at=load,do=delay:", "fail|hang|delay:MS"),
    ("run --device fault,at=disk:eject,do=fail", "disk:{open,lock,prove,read,write,sync,flush}"),
    ("run --device fault,at=step:Nothing,do=kill", "step: and one of CheckGreeting"),
    ("run --device fault,at=sent:Permit,do=fail", "write do=hang|delay:MS|kill|freeze"),
    ("run --device fault,at=record:sync,do=errno:ENOTHING", "one of EACCES|EAGAIN"),
    ("run --device fault,at=clock:realtime,do=hang", "write do=skew:MS"),
    ("run --device fault,at=load,do=delay:600001", "at most 600000"),
    ("run --device fault,at=load", "add do="),
    ("run --device fault,do=fail", "add at="),
    ("run --device fault,at=load,do=fail,times=0", "N, from 1"),
    ("run --device fault,at=load,do=fail,in=sideways", "incoming|outgoing"),
    ("run --device fault,at=load,at=save,do=fail", "`at` is given twice"),
    ("run --device fault,at=load,do=fail,colour=blue", "unknown key `colour`"),
    ("run --initrd initrd.img", "--kernel"),
    ("run --log a=b=c", "write a level (error, warn, info, debug, trace) or TARGET=LEVEL"),
    ("migrate", "--qmp"),
    ("migrate --qmp unix:/tmp/socket", "--to"),
    ("migrate --qmp /tmp/socket --to tcp:127.0.0.1:1", "write unix:PATH"),
    ("migrate --qmp unix:/tmp/socket --to 127.0.0.1:1", "write tcp:HOST:PORT or unix:PATH"),
    ("migrate --qmp unix:/tmp/socket --to tcp:127.0.0.1:1 --max-bandwidth fast", "--max-bandwidth"),
    ("migrate --qmp unix:/tmp/socket --to tcp:127.0.0.1:1 --max-bandwidth 100", "write for example 100M"),
    ("migrate --qmp unix:/tmp/socket --to tcp:127.0.0.1:1 --downtime-limit=-5", "--downtime-limit"),
    ("status", "--qmp"),
    ("status --qmp tcp:127.0.0.1:1", "write unix:PATH"),
];

/// Tries each.
pub fn rows(lab: &Lab) -> Vec<Row> {
    let usage = CASES.iter().map(|(line, expected)| {
        let arguments: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let (code, text) = run_to_end(lab, &arguments);
        let answer = answer((code, text));
        // Wrong usage has a status of its own.
        let expected = if code == 2 { expected } else { "exit 2" };
        Row::new(lab, "Command line", format!("ferry {line}"), &answer, expected)
    });
    let nobody = lab.path("nobody.sock").display().to_string();
    let unreachable = ["status", "migrate --to tcp:127.0.0.1:1"].map(|command| {
        let line = format!("{command} --qmp unix:{nobody}");
        let arguments: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let answer = answer(run_to_end(lab, &arguments));
        Row::new(lab, "Command line", format!("ferry {line}"), &answer, "is the process running, with --qmp")
    });
    usage.chain(unreachable).collect()
}
