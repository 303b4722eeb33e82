# Runs a program as a kubelet would run the one container of a pod, and a script beside it in the same network.
# usage: bash pod.sh PLACE USER GROUP GATEWAY ARGUMENT..., in mount, process and network namespaces of its own
#
# PLACE has: `mounts`, of each volume its directory, its path in the container, and ro or rw; `env`, the container's
# environment; `checks`, which is run once the program is ready, and has `inside` to run something in the container, and
# `refused` for what has to fail. Then the program is told to end. Nothing is writable but volumes, and the program gets no
# privilege at all.
set -eu
place=$1 user=$2 group=$3 gateway=$4
shift 4

root=$place/root
mkdir "$root"
mount -t tmpfs -o mode=755 pod "$root"
mkdir "$root"/{usr,dev,proc,image}
mount --rbind /usr "$root/usr"
for folder in bin lib lib32 lib64 libx32; do
    [ ! -e /$folder ] || cp -P /$folder "$root/"
done
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
touch "$root/image/nbd-gateway"
mount --bind "$gateway" "$root/image/nbd-gateway"
while read -r volume path mode; do
    mkdir -p "$root$path"
    mount --bind "$volume" "$root$path"
    [ "$mode" = rw ] || mount -o remount,bind,ro "$root$path"
done <"$place/mounts"
mount -o remount,bind,ro "$root/usr"
mount -o remount,bind,ro "$root"

# Only root can become somebody else; for all others that is one more name for themselves.
become=(chroot "$root" setpriv --reuid "$user" --regid "$group" --groups "$group" --inh-caps=-all --bounding-set=-all)
if ! grep -q ' 4294967295$' /proc/self/uid_map; then
    become=(unshare --user "--map-user=$user" "--map-group=$group" "--root=$root" setpriv)
fi
mapfile -t environment <"$place/env"
enter() {
    exec "${become[@]}" --no-new-privs env -i PATH=/image:/usr/bin:/bin "${environment[@]}" "$@"
}
inside() {
    (enter "$@")
}
refused() {
    ! "$@" || { echo "should have been refused: $*" >&2; exit 1; }
}

enter nbd-gateway "$@" >"$place/out" 2>"$place/log" &
server=$!
trap 'cat "$place/out" "$place/log"' EXIT
until grep -qx ready "$place/out"; do kill -0 $server; sleep 0.02; done
. "$place/checks"
kill -TERM $server
wait $server
trap - EXIT
