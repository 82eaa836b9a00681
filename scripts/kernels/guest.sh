# Sourced: stock Debian kernels in QEMU. They are downloaded once, to target/kernels, and never installed.
# shellcheck shell=bash

# Release series and where Debian has it.
declare -A suites_of=([6.1]=bookworm [6.12]=bookworm-backports)
# What reaches this machine's file system; beside it, what the nodes of tests hang on, filters, and disks, also
# over TCP.
modules=(virtio_pci 9pnet_virtio 9p veth bridge sch_ingress cls_bpf loop ext4 nvmet-tcp nvme-tcp)

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
store=$target/kernels

die() { echo "$(basename "$0"): $*" >&2; exit 2; }

# apt with lists of its own: the machine's sources may not have the release, and stay as they are.
private_apt() {
    local tool=$1 dir=$store/apt
    shift
    "$tool" -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$dir" \
        -o Dir::State="$dir/state" -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" \
        -o Dir::State::status=/dev/null -o Acquire::Languages=none -o Acquire::Retries=3 \
        -o APT::Sandbox::User=root "$@"
}

update_lists() {
    local dir=$store/apt
    mkdir -p "$dir"/{lists,cache/archives,state}/partial
    cat >"$dir/debian.sources" <<-END
		Types: deb
		URIs: http://deb.debian.org/debian
		Suites: ${suites_of[*]}
		Components: main
		Architectures: amd64
		Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
		END
    private_apt apt-get update || die "cannot read Debian's package lists"
}

# Unpacks the kernel of a release series to $store/RELEASE/image, once.
fetch() {
    local release=$1 image=$store/$1/image version package
    [ -e "$image/complete" ] && return
    [ -d "$store/apt/lists" ] && [ -n "${lists_fresh-}" ] || update_lists
    lists_fresh=1
    version=$(private_apt apt-cache madison linux-image-amd64 |
        awk -F'|' -v release="$release." -v suite="${suites_of[$release]}/" \
            '{ gsub(/ /, "", $2) } index($2, release) == 1 && index($3, suite) { print $2; exit }')
    package=$(private_apt apt-cache show "linux-image-amd64=$version" |
        sed -n 's/^Depends: \(linux-image-[^ ]*\) .*/\1/p' | head -n 1)
    [ -n "$package" ] || die "Debian has no kernel $release in ${suites_of[$release]}"
    rm -rf "$image" && mkdir -p "$image"
    (cd "$image" && private_apt apt-get download "$package" && dpkg-deb -x ./*.deb . && rm ./*.deb) ||
        die "cannot fetch $package"
    touch "$image/complete"
}

# pack RELEASE NAME FILES: the initramfs $store/RELEASE/NAME of busybox, the modules, and the files of a
# directory, which will be in /sigil. All else comes from this machine's own file system, mounted read-only.
pack() {
    local release=$1 name=$2 files=$3 image=$store/$1/image root=$store/$1/root version module line
    version=$(basename "$image"/lib/modules/*)
    rm -rf "$root"
    mkdir -p "$root"/{busybox,dev,proc,sys,tmp,run,host,out,modules,etc,root,var/tmp}
    cp "$(command -v busybox)" "$root/busybox/busybox"
    cp scripts/kernels/init "$root/init"
    depmod -b "$image" "$version"
    for module in "${modules[@]}"; do
        while read -r line; do
            case $line in
            insmod*.xz*) line=${line#insmod } && line=${line% }
                xz -dc "$line" >"$root/modules/$(basename "$line" .xz)"
                basename "$line" .xz ;;
            insmod*) line=${line#insmod } && line=${line% }
                cp "$line" "$root/modules/" && basename "$line" ;;
            esac
        done < <(modprobe -d "$image" -S "$version" --show-depends "$module")
    done | awk '!seen[$0]++' >"$root/modules/order"
    cp -r "$files" "$root/sigil"
    (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) >"$store/$release/$name"
}

# boot RELEASE INITRAMFS SUITE OUT SECONDS [KERNEL-OPTIONS [QEMU-OPTION...]]: runs /sigil/deps/SUITE on a
# kernel of its own to its end; it sees the directory OUT as /out. With one CPU: attaching a program rewrites
# code that other CPUs are running, and emulated ones then stumble over a breakpoint that is no longer there.
boot() {
    local dir=$store/$1 initramfs=$2 suite=$3 out=$4 bound=$5 options=${6-}
    shift "$(($# < 6 ? $# : 6))"
    rm -rf "$out" && mkdir -p "$out"
    timeout --kill-after=10 "$bound" qemu-system-x86_64 -accel tcg -cpu max -smp 1 \
        -m 2048 -nodefaults -no-reboot -nographic -serial "file:$out/console" \
        -kernel "$dir"/image/boot/vmlinuz-* -initrd "$dir/$initramfs" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on suite=$suite $options" \
        -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
        -device virtio-9p-pci,fsdev=host,mount_tag=host \
        -fsdev "local,id=out,path=$out,security_model=none" \
        -device virtio-9p-pci,fsdev=out,mount_tag=out "$@" </dev/null >"$out/qemu" 2>&1
}
