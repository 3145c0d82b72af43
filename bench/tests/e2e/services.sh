#!/bin/sh
# Run as a service of the guest whose process 1 is systemd; services.rs judges what it writes: a line `NAME VALUE…` for each fact.
exec 3>/dev/ttyS1 </dev/null
say() { echo "$*" >&3; }
prop() { systemctl show -P "$1" "$2"; }
pid() { prop MainPID "$1"; }
# Until the command ends well; not longer than so many tenths of a second.
wait_for() {
    tenths=$1 what=$2
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        tenths=$((tenths - 1))
        if [ $tenths -le 0 ]; then
            say "timeout $what"
            return 1
        fi
        sleep 0.1
    done
}
is_up() { adit status -c "/etc/adit/$1.yaml" --check; }
# Pings through the tunnel, a hundred in a second, beside what is done.
ping_begin() { sent=$1; ping -n -q -i 0.01 -c "$1" 10.1.0.2 >/run/ping 2>&1 & pinging=$!; sleep 0.3; }
ping_end() {
    wait $pinging
    received=$(sed -n "s/^$sent packets transmitted, \([0-9]*\) received.*/\1/p" /run/ping)
    if [ -n "$received" ]; then say "$1.pings $((sent - received)) lost"; else say "$1.pings $(cat /run/ping)"; fi
}
is_new() { now=$(pid "$1") && [ "$now" != 0 ] && [ "$now" != "$2" ]; }
status_of() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status" | head -n 1; }
# The effective one: the files in /proc are root's.
id_of() { status_of "$1" "$2" | cut -f 2; }
facts() {
    for unit in adit adit-dataplane; do
        pid=$(pid "$unit@a")
        say "$unit.user $(id -nu "$(id_of "$pid" Uid)") $(grep "^[^:]*:[^:]*:$(id_of "$pid" Gid):" /etc/group | cut -d : -f 1)"
        for fact in CapEff CapPrm CapBnd NoNewPrivs Seccomp; do say "$unit.$fact $(status_of "$pid" $fact)"; done
        say "$unit.status $(prop StatusText "$unit@a")"
        # As the process sees them.
        say "$unit.files $(cd "/proc/$pid/root" && ls -A etc/adit | wc -l)"
    done
    # The journal may be behind.
    wait_for 100 protections sh -c 'journalctl -o cat -b -u adit-dataplane@a | grep -q "^protections: "'
    say "adit-dataplane.protections $(journalctl -o cat -b -u adit-dataplane@a | sed -n 's/^protections: //p' | tail -n 1)"
    say "kernel.lsm $(cat /sys/kernel/security/lsm)"
}

# In seconds. Without KVM, and beside another load, a process may well be silent for some.
watchdog=15
[ "$(systemd-detect-virt)" = kvm ] && watchdog=4

set_up() {
    # Word for word as the README has it.
    grep -E '^(install -m 644 deploy/|chown )' /lab/README.md >/run/readme
    (cd /lab && sh -eux /run/readme)
    say "install.code $? $(stat -c '%U:%G:%a' /etc/adit /etc/adit/* | sort -u | tr '\n' ' ')"
    insmod /modules/tun.ko && insmod /modules/veth.ko
    # What udev does elsewhere.
    chmod 666 /dev/net/tun
    ip netns add b
    ip link add outer type veth peer name outer netns b
    ip address add 192.0.2.1/24 dev outer && ip link set outer up
    ip -n b address add 192.0.2.2/24 dev outer && ip -n b link set outer up && ip -n b link set lo up
    ln -s /usr/local/sbin/adit /usr/bin/adit
    for unit in adit adit-dataplane; do
        # The other end of the cable. And where the machine is fast, no test waits as long for a watchdog as people do.
        mkdir -p "/etc/systemd/system/$unit@b.service.d" "/etc/systemd/system/$unit@a.service.d"
        printf '[Service]\nNetworkNamespacePath=/run/netns/b\n' >"/etc/systemd/system/$unit@b.service.d/lab.conf"
        printf '[Service]\nWatchdogSec=%s\n' $watchdog >"/etc/systemd/system/$unit@a.service.d/lab.conf"
    done
    systemctl daemon-reload
}

start() {
    systemctl start adit@b adit@a
    say "start.code $?"
    say "start.active $(prop ActiveState adit@a) $(prop ActiveState adit-dataplane@a)"
    wait_for 300 up is_up a
    # The line is told every few seconds.
    wait_for 300 status sh -c 'systemctl show -P StatusText adit@a | grep -q "is up"'
    facts
}

restart() {
    control=$(pid adit@a) plane=$(pid adit-dataplane@a)
    ping_begin 300
    systemctl restart adit@a
    say "restart.code $?"
    ping_end restart
    say "restart.planes $(is_new adit@a "$control" && echo new) $([ "$(pid adit-dataplane@a)" = "$plane" ] && echo same)"
}

reload() {
    control=$(pid adit@a) plane=$(pid adit-dataplane@a)
    ping_begin 200
    sed -i 's|10.1.0.1/24|10.1.0.1/24, 10.1.0.9/24|' /etc/adit/a.yaml
    systemctl reload adit@a
    say "reload.code $? $(ip -br address show adit0 | grep -c 10.1.0.9/24)"
    echo nonsense >>/etc/adit/b.yaml
    systemctl reload adit@b
    say "reload.nonsense $? $(prop ActiveState adit@b)"
    sed -i '/^nonsense$/d' /etc/adit/b.yaml
    ping_end reload
    say "reload.planes $([ "$(pid adit@a)" = "$control" ] && echo same) $([ "$(pid adit-dataplane@a)" = "$plane" ] && echo same)"
}

# The data plane may open nothing: adit does, which is another user, and hands it over.
devices() {
    control=$(pid adit@a) plane=$(pid adit-dataplane@a)
    for port in 4501 4500; do
        ping_begin 100
        sed -i "s|^listen: 192.0.2.1:.*|listen: 192.0.2.1:$port|" /etc/adit/a.yaml
        systemctl reload adit@a
        ping_end "listen.$port"
        say "listen.$port.here $(grep -c "010200C0:$(printf %04X $port)" /proc/net/udp)"
        # What comes to the sockets of before is taken for so long.
        sleep 11
    done
    ip link del adit0
    wait_for 300 deleted.ping ping -n -q -c 1 -W 1 10.1.0.2
    say "devices.planes $([ "$(pid adit@a)" = "$control" ] && echo same) $([ "$(pid adit-dataplane@a)" = "$plane" ] && echo same)"
}

# The data plane has to be another one, and comes as it is wanted now: not first as it was before.
replace() {
    control=$(pid adit@a) plane=$(pid adit-dataplane@a)
    sed -i 's|name: adit0|name: adit0, mtu: 1280|' /etc/adit/a.yaml
    ping_begin 1500
    adit reload -c /etc/adit/a.yaml --restart-dataplane
    code=$?
    wait_for 300 replaced is_new adit-dataplane@a "$plane"
    wait_for 300 replaced.up is_up a
    ping_end replaced
    say "replaced.code $code $(cat /sys/class/net/adit0/mtu)"
    say "replaced.planes $([ "$(pid adit@a)" = "$control" ] && echo same) $(is_new adit-dataplane@a "$plane" && echo new)"
    journalctl -o cat -b -u adit@a >/run/journal
    say "replaced.faults $(grep -c 'could not be started' /run/journal)"
    say "replaced.settings $(grep -c 'runs with other settings' /run/journal)"
    # A priority that is understood is none of the text any more.
    journalctl -o cat -b -u adit@a -u adit-dataplane@a >/run/journal
    say "journal.said $([ "$(grep -c '^protections: ' /run/journal)" -ge 2 ] && echo both)"
    say "journal.unread $(grep -Ec '^(<[0-9]>|WARNING)' /run/journal)"
}

# adit dies, or stands still until the watchdog finds it.
control_fails() {
    control=$(pid adit@a) plane=$(pid adit-dataplane@a)
    ping_begin "$3"
    kill "-$2" "$control"
    wait_for 500 "$1" is_new adit@a "$control"
    wait_for 300 "$1.up" is_up a
    ping_end "$1"
    say "$1.planes $(is_new adit@a "$control" && echo new) $([ "$(pid adit-dataplane@a)" = "$plane" ] && echo same)"
}

plane_fails() {
    plane=$(pid adit-dataplane@a) control=$(pid adit@a)
    kill "-$2" "$plane"
    wait_for 500 "$1" is_new adit-dataplane@a "$plane"
    wait_for 300 "$1.ping" ping -n -q -c 1 -W 1 10.1.0.2
    say "$1.planes $([ "$(pid adit@a)" = "$control" ] && echo same) $(is_new adit-dataplane@a "$plane" && echo new)"
}

is_inactive() { [ "$(prop ActiveState "$1")" = inactive ]; }
# In the log only if it is news there; in the status until something else happens.
is_told() {
    adit status a --json -c /etc/adit/b.yaml | grep -q '"cause": *"the peer closed the connection' ||
        journalctl -o cat -u adit@b --since "@$1" | grep -q "the peer closed the connection"
}
# Puts a script in the place of the program that notes who runs `adit stop`. Running processes keep the program.
note_who_stops() {
    : >/run/stopped_by && chmod 666 /run/stopped_by
    ln /usr/local/sbin/adit /usr/local/sbin/adit.program
    {
        echo '#!/bin/sh'
        echo '[ "$1" != stop ] || id -nu >/run/stopped_by'
        echo 'exec /usr/local/sbin/adit.program "$@"'
    } >/run/noting
    install -m 755 /run/noting /usr/local/sbin/adit.noting && mv -f /usr/local/sbin/adit.noting /usr/local/sbin/adit
}
stop() {
    since=$(date +%s)
    note_who_stops
    systemctl stop adit@a
    say "stop.code $?"
    say "stop.user $(cat /run/stopped_by)"
    mv -f /usr/local/sbin/adit.program /usr/local/sbin/adit
    # It is told, and does not only find out.
    wait_for 300 stop.told is_told "$since"
    wait_for 100 stop.plane is_inactive adit-dataplane@a
    say "stop.active $(prop ActiveState adit@a) $(prop ActiveState adit-dataplane@a) $(prop Result adit@a) $(prop Result adit-dataplane@a)"
    say "stop.interface $(ip link show adit0 2>/dev/null | wc -l)"
    adit stop --name a >/run/said
    say "stop.nothing $? $(cat /run/said)"
    systemctl start adit@a
    wait_for 300 again is_up a
    ping -n -q -c 1 -W 5 10.1.0.2 >/dev/null
    say "stop.again $?"
}

set_up
start
restart
reload
devices
replace
control_fails killed KILL 300
control_fails hung STOP $((watchdog * 100 + 500))
plane_fails plane_killed KILL
plane_fails plane_ended TERM
plane_fails plane_hung STOP
stop
journalctl --no-pager -o short-monotonic -b >/dev/ttyS0
say end
sync
