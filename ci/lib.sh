# Shared by the scripts beside it: where the project is, how they speak, and whether KVM works here.
# Sourced, never run.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

readonly PROBE=${CARGO_TARGET_DIR:-target}/probe

# One line on stderr, with the name of the script that speaks.
say() {
    printf '%s: %s\n' "ci/$(basename "$0")" "$*" >&2
}

# Runs a command as root, where this user may without a password.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_be_root() {
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null
}

# Installs Debian packages, or says what to run and ends the script.
install_packages() {
    local packages=$* log
    [ -n "$packages" ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "packages are missing and there is no apt-get; install what Debian calls: $packages"
        exit 1
    fi
    local command="sudo apt-get update && sudo apt-get install -y --no-install-recommends $packages"
    may_be_root || { say "packages are missing; run: $command"; exit 1; }
    # shellcheck disable=SC2086 # a list of words
    step "installing $packages" "$command" apt_install $packages
}

apt_install() {
    as_root apt-get -q update && as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "$@"
}

# Runs a step quietly for at most 15 minutes; when it fails, shows the end of what it said, and what the user can run instead.
step() {
    local doing=$1 instead=$2 log
    shift 2
    log=$(mktemp)
    say "$doing"
    if timeout 900 bash -c "$(declare -f as_root apt_install); $(printf '%q ' "$@")" >"$log" 2>&1 </dev/null; then
        rm -f "$log"
        return 0
    fi
    tail -n 5 "$log" >&2
    rm -f "$log"
    say "that did not work (is there a network?); run: $instead"
    exit 1
}

# Builds ci/probe.rs, which tries what Ferry needs of this host.
build_probe() {
    local new
    mkdir -p "$(dirname "$PROBE")" && new=$(mktemp "$PROBE.XXXXXX") || return
    # A name of its own until it is whole: other scripts may run the probe meanwhile.
    if rustc --edition 2024 --crate-name probe -o "$new" ci/probe.rs; then
        mv "$new" "$PROBE"
    else
        rm -f "$new"
        return 1
    fi
}

# Tries `kvm` or `userfaultfd`; says why it does not work, with status 13 where this user is not permitted.
probe() {
    [ "$PROBE" -nt ci/probe.rs ] || build_probe || return
    "$PROBE" "$1"
}

# What lets this user open a device that a probe found closed, as a command.
opening() {
    local device=$1 group
    group=$(stat -c %G "$device")
    if [ "$group" != root ] && [ $((0$(stat -c %a "$device") & 060)) = $((060)) ]; then
        echo "sudo usermod -aG $group $(id -un)"
    else
        echo "sudo setfacl -m u:$(id -un):rw $device"
    fi
}

# The reason why this user cannot use KVM here and what helps, on one line; nothing when all is well.
kvm_problem() {
    local reason status=0
    if [ ! -e /dev/kvm ]; then
        if grep -qwE 'vmx|svm' /proc/cpuinfo; then
            echo "there is no /dev/kvm: load the module with 'sudo modprobe kvm_intel' (or kvm_amd)"
        else
            echo "there is no /dev/kvm and the CPU offers no virtualisation: switch it on in the firmware, or nested virtualisation in the host of this VM"
        fi
        return
    fi
    reason=$(probe kvm) || status=$?
    if [ "$status" = 0 ]; then
        return
    elif [ "$status" = 13 ] && [ "$(id -u)" = 0 ]; then
        echo "/dev/kvm is closed to root: the device has to be given to this container"
    elif [ "$status" = 13 ]; then
        echo "user $(id -un) may not open /dev/kvm (a new group counts from the next login); run: $(opening /dev/kvm)"
    else
        echo "/dev/kvm is there but does not work ($reason): the CPU or the host of this VM refuses; see 'sudo dmesg | grep -i kvm'"
    fi
}

# Ends the script when KVM is missing, unless FERRY_NO_KVM=1 says to go on without.
require_kvm() {
    local problem
    problem=$(kvm_problem)
    [ -n "$problem" ] || return 0
    if [ "${FERRY_NO_KVM:-0}" = 1 ]; then
        say "tests that need KVM are skipped: $problem"
    else
        say "set FERRY_NO_KVM=1 to run only what needs no KVM; $problem"
        exit 1
    fi
}
