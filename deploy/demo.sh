#!/usr/bin/env bash
# The main job in one minute: two gateways in two network namespaces, an encrypted Ethernet tunnel between them.
#
#   deploy/demo.sh [DIRECTORY OF THE BINARIES]        (make demo builds them and calls this)
#
#   ┌ namespace A ──────────────────┐   veth, MTU 1500   ┌ namespace B ──────────────────┐
#   │ adit0 10.77.0.1 ◀▶ adit       │◀── ESP in UDP ────▶│ adit       ◀▶ adit0 10.77.0.2 │
#   └───────────────── 192.0.2.1 ───┘     port 4500      └── 192.0.2.2 ──────────────────┘
#
# Cleans up after itself, also after Ctrl-C. What a run left behind that was killed (-9) is removed by the next one; without root it
# goes at once, where the kernel lets us have a process namespace, and else its gateways go on until you end them.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
self=$here/deploy/$(basename "$0")
bin=$(realpath "${1:-$here/target/release}")
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
A=adit-demo-a
B=adit-demo-b
seconds=5

die() {
    echo "demo: $*" >&2
    exit 1
}
step() { printf '\n\033[1m── %s\033[0m\n' "$*"; }
show() {
    printf '   $ %s\n' "$*"
    "$@" 2>&1 | sed 's/^/   /'
}

for program in adit adit-dataplane; do
    [ -x "$bin/$program" ] || die "$bin/$program is missing: run 'make build' first"
done
for program in ip ping iperf3 unshare; do
    command -v $program >/dev/null || die "$program is missing: run 'deploy/install-deps.sh demo' as root"
done
[ -e /dev/net/tun ] || die "there is no /dev/net/tun: load the module with 'modprobe tun', or give the container the device (docker run --device /dev/net/tun --cap-add NET_ADMIN --cap-add SYS_ADMIN)"

# Without root: a user namespace in which we are root, with a mount namespace for `ip netns` to write in.
if [ "$(id -u)" -ne 0 ]; then
    if ! unshare -Urnm true 2>/dev/null; then
        cat >&2 <<'HELP'
demo: not root, and this system forbids user namespaces. Either run it as root (sudo make demo), or allow them as root:
    sysctl user.max_user_namespaces=15000
    sysctl kernel.unprivileged_userns_clone=1                  (Debian kernels that have the switch)
    sysctl kernel.apparmor_restrict_unprivileged_userns=0      (Ubuntu 23.10 and later)
HELP
        exit 1
    fi
    { : <>/dev/net/tun; } 2>/dev/null || die "not root, and /dev/net/tun may not be opened: run as root, or 'chmod 666 /dev/net/tun' as root"
    echo "not root: going on as root of a user namespace"
    # In a process namespace of its own, all processes of a demo end with its first one, whatever ends that.
    alone=(--pid --fork --kill-child --mount-proc)
    unshare -Urnm "${alone[@]}" true 2>/dev/null || alone=()
    ADIT_DEMO_INSIDE=yes exec unshare -Urnm "${alone[@]}" "$self" "$bin"
fi
# Only where the mounts are ours alone: root of a container has come here too.
if [ "${ADIT_DEMO_INSIDE:-no}" = yes ]; then
    mount -t tmpfs tmpfs /run
fi
mkdir -p /run/netns

# All files of the demo. What is found there is removed, perhaps by root: nobody else may write there.
place=/run/adit-demo
mkdir -m 700 $place 2>/dev/null || true
if [ -L $place ] || [ ! -d $place ] || [ ! -O $place ] || [ "$(stat -c %a $place)" != 700 ]; then
    die "$place is not a directory of ours alone with mode 700: look who made it, and remove it"
fi
LOCK=$place/lock
work=$place/work
remove() {
    local ns pids
    for ns in $A $B; do
        ip netns pids $ns >/dev/null 2>&1 || continue
        for signal in TERM KILL; do
            pids=$(ip netns pids $ns)
            [ -z "$pids" ] && break
            # shellcheck disable=SC2086
            kill -$signal $pids 2>/dev/null || true
            for _ in $(seq 50); do
                [ -z "$(ip netns pids $ns)" ] && break
                sleep 0.05
            done
        done
        ip netns del $ns
    done
}
# One demo at a time. A demo that was killed (-9) leaves its files behind, and perhaps children that still hold the lock.
exec 9<>$LOCK
if ! flock -n 9; then
    read -r owner <$LOCK || true
    # A zombie has no command line.
    grep -qs demo "/proc/${owner:-none}/cmdline" && die "another demo is running (process $owner)"
    remove
    flock -w 10 9 || die "another demo is running"
fi
remove
rm -rf $work
mkdir $work
echo $$ >$LOCK
finish() {
    local status=$?
    trap - EXIT
    # A second Ctrl-C must not leave half of it.
    trap '' INT TERM HUP
    if [ $status -ne 0 ] && [ $status -ne 130 ]; then
        for log in "$work"/*.log; do
            [ -s "$log" ] && { echo "── $log"; tail -n 20 "$log"; } >&2
        done
    fi
    remove
    rm -rf $work
    : >$LOCK
    [ $status -eq 0 ] && printf '\nnamespaces, processes and files of the demo are removed\n'
    exit $status
}
trap finish EXIT
trap 'echo; echo "interrupted, cleaning up"; exit 130' INT
trap 'exit 143' TERM HUP

step "1. Two network namespaces, joined by a veth pair with MTU 1500"
for ns in $A $B; do
    ip netns add $ns
    ip -n $ns link set lo up
done
ip link add vetha netns $A type veth peer name vethb netns $B
ip -n $A addr add 192.0.2.1/24 dev vetha
ip -n $B addr add 192.0.2.2/24 dev vethb
ip -n $A link set vetha up
ip -n $B link set vethb up
echo "   $A: 192.0.2.1    $B: 192.0.2.2"

step "2. A static key (for labs), and a configuration for each gateway"
"$bin/adit" keygen -o "$work/lab.key"
gateway() { # name, address outside, number, peer's name, peer's address outside
    cat <<YAML
name: $1
listen: $2:4500
interface: { name: adit0, addresses: [10.77.0.$3/24, "fd77::$3/64"] }
dataplane: { binary: $bin/adit-dataplane }
peers:
  - { name: $4, endpoint: "$5:4500", static_key_file: $work/lab.key }
metrics: { listen: 127.0.0.1:9464 }
runtime_dir: $work/run-$1
state_dir: $work/state-$1
YAML
}
gateway site-a 192.0.2.1 1 site-b 192.0.2.2 >"$work/a.yaml"
gateway site-b 192.0.2.2 2 site-a 192.0.2.1 >"$work/b.yaml"
sed 's/^/   /' "$work/a.yaml"
show "$bin/adit" config check "$work/a.yaml"

step "3. A gateway in each namespace: the control plane 'adit' starts its data plane 'adit-dataplane'"
ip netns exec $A "$bin/adit" run -c "$work/a.yaml" >"$work/a.log" 2>&1 9>&- &
ip netns exec $B "$bin/adit" run -c "$work/b.yaml" >"$work/b.log" 2>&1 9>&- &
up=no
for _ in $(seq 100); do
    if ip netns exec $A ping -c 1 -W 1 -n 10.77.0.2 >/dev/null 2>&1; then
        up=yes
        break
    fi
    sleep 0.1
done
[ $up = yes ] || die "the tunnel did not come up within ten seconds; the logs follow"
show ip -n $A -brief addr show adit0

step "4. Ping through the tunnel, IPv4 and IPv6"
show ip netns exec $A ping -n -q -c 500 -i 0.002 10.77.0.2
show ip netns exec $A ping -n -q -c 20 -i 0.002 fd77::2

step "5. TCP for $seconds seconds each way"
ip netns exec $B iperf3 -s >"$work/iperf3.log" 2>&1 9>&- &
for _ in $(seq 100); do
    ip netns exec $B ss -Hltn 'sport = :5201' | grep -q . && break
    sleep 0.05
done
gbits() { # arguments of iperf3
    ip netns exec $A iperf3 -c 10.77.0.2 -t $seconds -f g "$@" |
        awk '/receiver/ && (/SUM/ || !sum) { for (i = 1; i < NF; i++) if ($(i + 1) == "Gbits/sec") rate = $i; if (/SUM/) sum = 1 } END { print rate }'
}
one=$(gbits -P 1)
echo "   one stream, A to B:     $one Gbit/s"
four=$(gbits -P 4)
echo "   four streams, A to B:   $four Gbit/s"
reverse=$(gbits -P 1 -R)
echo "   one stream, B to A:     $reverse Gbit/s"

step "6. What the gateway says about itself"
show ip netns exec $A "$bin/adit" status -c "$work/a.yaml"

step "7. What the data plane of gateway A counted, over its workers (from http://127.0.0.1:9464/metrics)"
metrics() { ip netns exec $A bash -c 'exec 3<>/dev/tcp/127.0.0.1/9464; printf "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n" >&3; cat <&3'; }
metrics | tr -d '\r' | awk '
    /^adit_drops_total/ { drops += $2; next }
    /^adit_[a-z_]+_total{worker=/ { name = $1; sub(/{.*/, "", name); sums[name] += $2 }
    END {
        for (name in sums) if (sums[name]) printf "   %-36s %15.0f\n", name, sums[name] | "sort"
        close("sort")
        printf "   %-36s %15.0f\n", "adit_drops_total, for all reasons", drops
    }'

step "Done: $one Gbit/s with one TCP stream, $four with four, $reverse the other way, both gateways and both ends of TCP on $(nproc) cores"
for log in "$work/a.log" "$work/b.log"; do
    if grep -E 'panicked| ERROR ' "$log" >&2; then
        die "the log of a gateway reports an error"
    fi
done
