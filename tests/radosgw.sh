#!/bin/sh
# Run a command against a real Ceph object gateway: one monitor, one OSD in memory, one radosgw on a loopback port.
#
#     tests/radosgw.sh .venv/bin/python -m pytest tests/test_remote.py
#
# The command finds the server in PACKMULE_S3_SERVER (its URL) and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY. Needs
# Debian's packages radosgw, ceph-mon and ceph-osd (apt-get install --no-install-recommends; about 100 with what they
# need). Everything it writes is in one temporary folder; it stops the processes it started and no others.
set -eu
[ $# -gt 0 ] || { echo "usage: tests/radosgw.sh COMMAND..." >&2; exit 2; }
for tool in ceph ceph-authtool ceph-mon ceph-osd radosgw radosgw-admin monmaptool; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install radosgw ceph-mon ceph-osd" >&2; exit 2; }
done

home=$(mktemp -d "${TMPDIR:-/tmp}/packmule-rgw.XXXXXX")
pids=""
stop() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$home"
}
trap stop EXIT
trap 'exit 130' INT TERM

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
mon=$(free_port)
gateway=$(free_port)
fsid=$(cat /proc/sys/kernel/random/uuid)

cat >"$home/ceph.conf" <<CONF
[global]
fsid = $fsid
mon_host = v2:127.0.0.1:$mon
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = $home/keyring
run_dir = $home
admin_socket = $home/\$name.asok
log_file = $home/\$name.log
pid_file = $home/\$name.pid
crash_dir = $home
mon_data = $home/mon
osd_data = $home/osd
rgw_data = $home/rgw
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_crush_chooseleaf_type = 0
osd_crush_update_on_start = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
rgw_frontends = beast endpoint=127.0.0.1:$gateway
rgw_gc_max_objs = 4
rgw_lc_max_objs = 4
rgw_reshard_num_logs = 2
CONF
export CEPH_CONF="$home/ceph.conf"
mkdir "$home/mon" "$home/osd" "$home/rgw"

wait_for() { # seconds, what, command...
    left=$1 what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { echo "$what did not start; its log:" >&2; tail -n 20 "$home"/*.log >&2; exit 1; }
        sleep 1
    done
}

ceph-authtool --create-keyring "$home/keyring" --gen-key --name mon. --cap mon 'allow *' >/dev/null
for name in client.admin client.rgw; do
    ceph-authtool "$home/keyring" --gen-key --name $name \
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
done
ceph-authtool "$home/keyring" --gen-key --name osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' >/dev/null
monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon]" "$home/monmap" >/dev/null
ceph-mon --id a --mkfs --monmap "$home/monmap" --keyring "$home/keyring" >/dev/null
ceph-mon --id a --foreground >/dev/null 2>&1 & pids="$pids $!"
wait_for 60 "the monitor" ceph --connect-timeout 5 mon stat

osd=$(cat /proc/sys/kernel/random/uuid)
ceph osd new "$osd" >/dev/null
ceph-osd --id 0 --mkfs --osd-uuid "$osd" >/dev/null 2>&1
ceph osd crush add-bucket here host >/dev/null 2>&1
ceph osd crush move here root=default >/dev/null 2>&1
ceph osd crush add osd.0 1 host=here >/dev/null 2>&1
ceph-osd --id 0 --foreground >/dev/null 2>&1 & pids="$pids $!"
wait_for 60 "the OSD" sh -c "ceph osd stat | grep -q '1 up'"

radosgw --name client.rgw --foreground >/dev/null 2>&1 & pids="$pids $!"
wait_for 120 "the gateway" python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$gateway', timeout=5)"
export AWS_ACCESS_KEY_ID=packmule AWS_SECRET_ACCESS_KEY=packmule-secret
radosgw-admin user create --uid=packmule --display-name=packmule \
    --access-key="$AWS_ACCESS_KEY_ID" --secret-key="$AWS_SECRET_ACCESS_KEY" >/dev/null 2>&1
export PACKMULE_S3_SERVER="http://127.0.0.1:$gateway"
echo "radosgw $(radosgw --version | cut -d' ' -f3) at $PACKMULE_S3_SERVER" >&2
"$@"
