# The first program of a guest: modules, links, and then one command line after the other from the serial line, each answered with
# its exit status, the length of its output, and the output. The end of the line is the end of the guest.
set -e
PATH=/usr/sbin:/usr/bin
export PATH
mount -n -t sysfs sys /sys
mount -n -t tmpfs run /run
# Under a name that the host does not have: see the last lines.
mkdir /run/guest-proc
mount -n -t proc proc /run/guest-proc
mount -n -t tmpfs tmp /tmp
mount -n -t hostfs modules /lib/modules -o "$modules"
# jitterentropy_rng tests the host's clock and refuses to load where it does not like it. The generator of random IVs (drbg) goes on
# without, seeded by the kernel. So it is refused everywhere, and a guest is the same on all hosts.
mkdir /run/modprobe.d
echo 'install jitterentropy_rng false' >/run/modprobe.d/guest.conf
# What the kernel would look for by itself comes too late for the first SA.
modprobe -a esp4 esp6 xfrm_user gcm ccm ctr cbc hmac aes_generic ghash-generic sha256_generic sha512_generic \
    chacha_generic poly1305_generic chacha20poly1305 seqiv echainiv authenc authencesn crypto_null drbg tun sch_netem
ip link set lo up
ip link set vec0 name wan0
ip link set wan0 up
ip link set vec1 name lab0
ip address add 169.254.77.2/30 dev lab0
ip link set lab0 up
set +e
exec </dev/ttyS0 >/dev/ttyS0 2>/dev/console
stty raw -echo
echo ready
while IFS= read -r line; do
    sh -c "$line" </dev/null >/run/output 2>&1
    status=$?
    echo "$status $(stat -c %s /run/output)"
    cat /run/output
done
# A process of a guest whose kernel was killed is one of the host for a moment: it must not find the host's own switch.
echo o >/run/guest-proc/sysrq-trigger
sleep 10
