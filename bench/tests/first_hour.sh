#!/usr/bin/env bash
# A new user's first hour, as he would type it: two boxes on a line, their files, and what he tries then.
#
#   first_hour.sh PART        as root, in mount, network and process namespaces of its own (first_hour.rs makes them)
#     boxes    a preshared key and two files of six lines; ping, TCP, status, new keys, a stop
#
#   a ── wan0 192.0.2.1 ═════ a line of MTU 1400 ═════ 192.0.2.2 wan0 ── b          inside 10.1.0.1, 10.1.0.2
set -euo pipefail

mount -t tmpfs tmpfs /run
mkdir /run/netns /run/adit

# $ at a b …: a command on box a.
at() {
    local box=$1
    shift
    ip netns exec "$box" "$@"
}
# Tries until it works, as one does with a tunnel that is just coming up.
until_it_works() {
    local tries=0
    until "$@" >/run/tried 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { echo "in vain: $*"; cat /run/tried /run/*.log; exit 1; }
        sleep 0.2
    done
}

the_line() {
    ip netns add a
    ip netns add b
    ip link add wan0 mtu 1400 netns a type veth peer name wan0 mtu 1400 netns b
    ip -n a address add 192.0.2.1/24 dev wan0
    ip -n b address add 192.0.2.2/24 dev wan0
    for box in a b; do
        ip -n $box link set lo up
        ip -n $box link set wan0 up
    done
}

# $ box NAME PEER ADDRESS OF THE PEER, INTERFACE
box() {
    mkdir -p "/run/$1"
    cat >"/run/$1/adit.yaml" <<END
name: $1
listen: 0.0.0.0:4500
underlay_mtu: 1400
interface: { name: adit0, $4 }
peers:
  - { name: $2, endpoint: "$3:4500", ike: { psk_file: /run/psk } }
state_dir: /run/$1/state
END
    at "$1" adit config check "/run/$1/adit.yaml"
    at "$1" adit run -c "/run/$1/adit.yaml" >"/run/$1.log" 2>&1 &
}

a_key() {
    (umask 077; head -c 32 /dev/urandom | base64 >/run/psk)
}

# TCP there and back, whole packets.
a_copy() {
    local from=$1 to=$2 address=$3
    at "$to" iperf3 -s -1 >/run/iperf3.log 2>&1 &
    until_it_works at "$to" sh -c 'ss -ltn | grep -q :5201'
    at "$from" timeout 60 iperf3 -c "$address" -n 20M
}

boxes() {
    the_line
    a_key
    box a b 192.0.2.2 "addresses: [10.1.0.1/24]"
    box b a 192.0.2.1 "addresses: [10.1.0.2/24]"
    until_it_works at a ping -n -c1 -W1 10.1.0.2
    at b ping -n -c3 -i0.2 10.1.0.1
    at a ping -n -c3 -i0.2 -s 1200 10.1.0.2
    a_copy a b 10.1.0.2
    a_copy b a 10.1.0.1
    at a adit status -c /run/a/adit.yaml
    at a adit explain b -c /run/a/adit.yaml | grep "nothing is wrong"
    at a adit rekey b -c /run/a/adit.yaml
    at a ping -n -c3 -i0.2 10.1.0.2
    # Ctrl-C, and everything is gone.
    pkill -INT -f "adit run -c /run/a/adit.yaml"
    until_it_works sh -c '! ip -n a link show adit0'
}

"$1"
