#!/usr/bin/env bash
# A new user's first hour, as he would type it: two boxes on a line, their files, and what he tries then.
#
#   first_hour.sh PART        as root, in mount, network and process namespaces of its own (first_hour.rs makes them)
#     boxes     a preshared key and two files of six lines; ping, TCP, status, new keys, a stop
#     lans      a LAN of MTU 1500 behind each box; the two become one
#     networks  three networks behind a strongSwan, each packet to the one that it is for ($SWAN: its root directory)
#     change    another address, a mistake and another key, while packets flow
#     readme    the files and commands of the README, as they stand there: two boxes, then a strongSwan ($README, $SWAN)
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
interface: { name: adit0, $4 }
peers:
  - { name: $2, endpoint: "$3:4500", ike: { psk_file: /run/psk } }
state_dir: /run/$1/state
END
    start "$1"
}
start() {
    at "$1" adit config check "/run/$1/adit.yaml"
    at "$1" adit run -c "/run/$1/adit.yaml" >"/run/$1.log" 2>&1 &
}

a_key() {
    rm -f /run/psk
    adit keygen psk -o /run/psk
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

# A host with the usual MTU on a bridge of a box.
# $ lan BOX HOST ADDRESS
lan() {
    ip netns add "$2"
    ip link add lan0 netns "$1" type veth peer name eth0 netns "$2"
    ip -n "$1" link add br0 type bridge
    ip -n "$1" link set lan0 master br0
    ip -n "$1" link set lan0 up
    ip -n "$1" link set br0 up
    ip -n "$2" address add "$3" dev eth0
    ip -n "$2" link set eth0 up
}

lans() {
    the_line
    a_key
    lan a desk 10.5.0.1/24
    lan b printer 10.5.0.2/24
    box a b 192.0.2.2 "bridge: br0"
    box b a 192.0.2.1 "bridge: br0"
    until_it_works at desk ping -n -c1 -W1 10.5.0.2
    # What is longer than the line arrives all the same.
    at desk ping -n -c3 -i0.2 -s 1472 -M dont 10.5.0.2
    at printer ping -n -c3 -i0.2 -s 5000 -M dont 10.5.0.1
    a_copy desk printer 10.5.0.2
    a_copy printer desk 10.5.0.1
    # Who wants no fragments is told what fits.
    at desk ping -n -c1 -W1 -s 1472 -M do 10.5.0.2 && exit 1
    until_it_works sh -c 'ip -n desk route get 10.5.0.2 | grep -w mtu'
    at desk ping -n -c3 -i0.2 -s 1200 -M do 10.5.0.2
    at a adit explain b -c /run/a/adit.yaml | grep "nothing is wrong"
}

# $ swan PROGRAM …: one of strongSwan's, on box b.
swan() {
    at b env STRONGSWAN_CONF=/run/strongswan.conf chroot /run/swan "$@"
}
# Its configuration is read from here. The host's kernel may have no IPsec, so strongSwan does ESP by itself; the mark keeps its own
# packets out of its routes.
a_strongswan() {
    mkdir /run/swan
    mount --bind "$SWAN" /run/swan
    mount --rbind /dev /run/swan/dev
    mount --rbind /proc /run/swan/proc
    mount -t tmpfs tmpfs /run/swan/run
    mount -t tmpfs tmpfs /run/swan/tmp
    cat >/run/swan/run/strongswan.conf <<END
charon-systemd {
    load = random nonce drbg aes sha1 sha2 hmac kdf gcm openssl socket-default updown vici kernel-libipsec kernel-netlink
    plugins {
        kernel-libipsec { allow_peer_ts = yes }
        kernel-netlink { fwmark = !0x42 }
        socket-default { fwmark = 0x42 }
        vici { socket = unix:///run/charon.vici }
    }
}
swanctl { socket = unix:///run/charon.vici }
END
    cat >/run/swan/run/swanctl.conf
    swan /usr/sbin/charon-systemd >/run/swan.log 2>&1 &
    until_it_works swan swanctl --load-all --file /run/swanctl.conf
}

networks() {
    the_line
    a_key
    for net in 1 2 3; do
        ip -n b address add 10.2.$net.1/24 dev lo
    done
    a_strongswan <<END
connections {
    a {
        remote_addrs = 192.0.2.1
        proposals = aes256gcm16-prfsha384-x25519
        local {
            auth = psk
            id = b
        }
        remote {
            auth = psk
            id = a
        }
        children {
            net {
                local_ts = 10.2.1.0/24, 10.2.2.0/24, 10.2.3.0/24
                remote_ts = 10.1.0.0/24
                esp_proposals = aes256gcm16
            }
        }
    }
}
secrets { ike { secret = "$(cat /run/psk)" } }
END
    mkdir /run/a
    cat >/run/a/adit.yaml <<END
name: a
listen: 0.0.0.0:4500
mode: ip
interface: { name: adit0, addresses: [10.1.0.1/24] }
peers:
  - name: b
    endpoint: "192.0.2.2:4500"
    ike: { psk_file: /run/psk }
    selectors:
      - { local: 10.1.0.0/24, remote: 10.2.1.0/24 }
      - { local: 10.1.0.0/24, remote: 10.2.2.0/24 }
      - { local: 10.1.0.0/24, remote: 10.2.3.0/24 }
state_dir: /run/a/state
END
    start a
    for net in 1 2 3; do
        until_it_works at a ping -n -c1 -W1 10.2.$net.1
        at b ping -n -c3 -i0.2 -I 10.2.$net.1 10.1.0.1
    done
    a_copy a b 10.2.1.1
    a_copy b a 10.1.0.1
    at a adit rekey b -c /run/a/adit.yaml
    for net in 1 2 3; do
        at a ping -n -c3 -i0.2 10.2.$net.1
    done
    swan swanctl --list-sas
}

change() {
    the_line
    a_key
    box a b 192.0.2.2 "addresses: [10.1.0.1/24]"
    box b a 192.0.2.1 "addresses: [10.1.0.2/24]"
    until_it_works at a ping -n -c1 -W1 10.1.0.2
    at b ping -n -c1 10.1.0.1
    at b ping -n -q -i0.01 -c1000 10.1.0.1 >/run/pings &
    pings=$!

    # Another address, as one sees it first and then has it.
    sed -i 's|addresses: .*|addresses: [10.1.0.1/24, 10.9.0.1/24] }|' /run/a/adit.yaml
    at a adit reload --dry-run -c /run/a/adit.yaml | grep -F 10.9.0.1
    ip -n a address show dev adit0 | grep -F 10.9.0.1 && exit 1
    at a adit reload -c /run/a/adit.yaml
    ip -n a address show dev adit0 | grep -F 10.9.0.1

    # A mistake changes nothing, and is told with its line.
    cp /run/a/adit.yaml /run/a/good.yaml
    sed -i 's|10.9.0.1/24|10.9.0.1/240|' /run/a/adit.yaml
    at a adit reload -c /run/a/adit.yaml >/run/said 2>&1 && exit 1
    grep -F /run/a/adit.yaml:3: /run/said
    ip -n a address show dev adit0 | grep -F 10.9.0.1
    mv /run/a/good.yaml /run/a/adit.yaml
    at a adit reload -c /run/a/adit.yaml
    wait $pings
    grep " 0% packet loss" /run/pings

    # Another key: the tunnel begins anew.
    a_key
    at a adit reload -c /run/a/adit.yaml
    at b adit reload -c /run/b/adit.yaml
    until_it_works at a ping -n -c1 -W1 10.1.0.2
    at a adit explain b -c /run/a/adit.yaml | grep "b: established"
}

# The README's fenced text of a kind (yaml or none) that begins with these words.
# $ fenced KIND WORDS
fenced() {
    awk -v fence='```'"$1" -v words="$2" '
        /^```/ { inside = !inside; first = inside && $0 == fence; shown = 0; next }
        first { shown = index($0, words) == 1; first = 0 }
        shown { print }
    ' "$README"
}

readme() {
    the_line
    mkdir /run/a /run/b
    mount -t tmpfs tmpfs /var/lib
    # Two boxes: the first yaml in the README is box a's.
    fenced yaml "name: a" | awk '/^name:/ { file++ } file == 1' >/run/a/adit.yaml
    sed -e 's/name: a$/name: B/; s/name: b,/name: a,/; s/name: B/name: b/; s/10\.1\.0\.1/10.1.0.2/; s/192\.0\.2\.2/192.0.2.1/; s/b\.psk/a.psk/' \
        /run/a/adit.yaml >/run/b/adit.yaml
    adit keygen psk -o /run/a/b.psk
    cp -p /run/a/b.psk /run/b/a.psk
    start a
    start b
    until_it_works at a ping -n -c1 -W1 10.1.0.2
    # What the README says of a gateway that runs, as it says it.
    until_it_works at a adit status --check -c /run/a/adit.yaml
    local said=0
    while read -r line; do
        at a bash -euc "$line"
        said=$((said + 1))
    done < <(sed -nE 's/^(adit (status|reload|explain|rekey) .*|curl .*)/\1/p' "$README" | sed 's|/etc/adit/|/run/a/|')
    [ $said -ge 7 ]
    at a ping -n -c3 -i0.2 10.1.0.2
    at b adit stop -c /run/b/adit.yaml
    at a adit stop -c /run/a/adit.yaml
    until_it_works sh -c '! ip -n a link show adit0'

    # A strongSwan in the second one's place.
    ip -n b address add 10.2.0.1/24 dev lo
    fenced "" "connections {" | sed "s|\"…\"|\"$(cat /run/a/b.psk)\"|" | a_strongswan
    fenced yaml "name: a" | awk '/^name:/ { file++ } file == 2' >/run/a/adit.yaml
    start a
    until_it_works at a ping -n -c1 -W1 -I 10.1.0.1 10.2.0.1
    at b ping -n -c3 -i0.2 -I 10.2.0.1 10.1.0.1
    until_it_works at a adit status --check -c /run/a/adit.yaml
}

"$1"
