# An emulated machine, its files in $dir: its image's path, its disks, what it was started with, and while it runs
# the emulator's id, the port of its sshd and a socket to it. Sourced, not run.

# start: starts it from the disks in $dir.
start() {
    local disk drives=()
    for disk in "$dir"/disk*.qcow2; do
        # What the machine has written and not flushed is lost with the emulator; what it has flushed is not.
        drives+=(-drive "file=$(basename "$disk"),if=virtio,format=qcow2,cache=writeback")
    done
    # The name of the file with its id tells the process from others; the system chooses the port. A
    # simple processor is the fastest to emulate.
    (cd "$dir" && exec qemu-system-x86_64 -pidfile "$dir/pid" -daemonize -nodefaults -no-user-config \
        -accel tcg,thread=multi -machine q35 -cpu qemu64,svm=off,rdrand=on -smp "$(cat cpus 2>/dev/null || echo 2)" \
        -m "$(cat memory 2>/dev/null || echo 2048)" \
        -display none -kernel "$(<image)/vmlinuz" -initrd "$(<image)/initrd" \
        -append "console=ttyS0 quiet net.ifnames=0 mitigations=off nowatchdog" \
        "${drives[@]}" -serial file:console.log ${clock:+-rtc "base=$clock"} \
        -netdev user,id=net,hostfwd=tcp:127.0.0.1:0-:22 -device virtio-net-pci,netdev=net,romfile= \
        9>&-) || die "the emulator does not start"
    ss -Hltnp | sed -n "s/.* 127.0.0.1:\([0-9]*\) .*pid=$(<"$dir/pid"),.*/\1/p" >"$dir/port"
    wait_for 300 answers || not_up "no answer"
    # One connection for all that follows: to make one takes the emulated machine seconds.
    local options
    ssh_options
    (cd "$dir" && ssh "${options[@]}" -M -N -f 127.0.0.1) >/dev/null 2>&1 </dev/null 9>&- || true
}

# is_up: once all of its units have started, or it ends with what has not.
is_up() {
    local state
    state=$(guest systemctl is-system-running --wait) ||
        not_up "$state: $(guest systemctl list-units --failed --no-legend --plain)"
}

not_up() {
    tail -20 "$dir/console.log" >&2
    die "the machine does not come up: $*"
}

# The emulator takes connections long before the machine does.
answers() {
    local line
    read -r -t 5 line <"/dev/tcp/127.0.0.1/$(<"$dir/port")" && [[ $line == SSH-* ]]
}

# What ssh and scp need to know, started in $dir: a socket's path may not be long.
ssh_options() {
    local image
    image=$(<"$dir/image")
    options=(-F none -i "$image/key" -o User=root -o Port="$(<"$dir/port")" -o BatchMode=yes
        -o UserKnownHostsFile="\"$image/known_hosts\"" -o HostKeyAlias=podkeeper-machine
        -o ControlPath=ssh -o ServerAliveInterval=20 -o LogLevel=ERROR)
}

guest() {
    local options
    ssh_options
    (cd "$dir" && exec ssh "${options[@]}" 127.0.0.1 "${*@Q}")
}

# put FILE PATH: copies a file or folder into it.
put() {
    local options file
    ssh_options
    file=$(realpath "$1")
    (cd "$dir" && exec scp -q -rp "${options[@]}" "$file" "127.0.0.1:$2")
}

# end_machine: ends the emulator, at once and as a power cut does, unless its id has become another process's.
end_machine() {
    local pid
    pid=$(cat "$dir/pid" 2>/dev/null) || return 0
    if grep -qzxF -- "$dir/pid" "/proc/$pid/cmdline" 2>/dev/null; then
        kill -9 "$pid" 2>/dev/null || true
        wait_for 10 not_running "$pid" || say "process $pid does not end"
    fi
    (cd "$dir" && ssh -F none -S ssh -O exit 127.0.0.1 2>/dev/null) || true
    rm -f "$dir/pid" "$dir/ssh"
}
