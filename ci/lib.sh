# Shared by the scripts beside it: where the project is, how they speak, and what is wrong with /dev/kvm.
# Sourced, never run.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# One line on stderr, with the name of the script that speaks.
say() {
    printf '%s: %s\n' "ci/$(basename "$0")" "$*" >&2
}

# The reason why this user cannot use KVM here and what helps, on one line; nothing when all is well.
kvm_problem() {
    if [ ! -e /dev/kvm ]; then
        if grep -qwE 'vmx|svm' /proc/cpuinfo; then
            echo "there is no /dev/kvm: load the module with 'sudo modprobe kvm_intel' (or kvm_amd)"
        else
            echo "there is no /dev/kvm and the CPU offers no virtualisation: switch it on in the firmware, or nested virtualisation in the host of this VM"
        fi
    elif [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
        echo "user $(id -un) may not open /dev/kvm: run 'sudo usermod -aG kvm $(id -un)' and log in again"
    elif ! (exec 3<>/dev/kvm) 2>/dev/null; then
        echo "/dev/kvm is there but does not open: the module is loaded and the CPU or the host of this VM refuses; see 'sudo dmesg | grep -i kvm'"
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
        say "$problem; or set FERRY_NO_KVM=1 to run only what needs no KVM"
        exit 1
    fi
}
