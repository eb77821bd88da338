# Shared by the scripts in hack/. Sourced, not run.

set -euo pipefail

hack=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(dirname "$hack")
cache=${PODKEEPER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/podkeeper}

say() { echo "$(basename "$0"): $*" >&2; }
die() {
    say "$*"
    exit 1
}

# with_lock NAME COMMAND...: runs a command while no other script of ours holds the same lock.
with_lock() {
    local name=$1
    shift
    mkdir -p "$cache"
    (
        flock 9
        "$@"
    ) 9>"$cache/$name.lock"
}

# version_of MODULE FOLDER: the version of a Go module that the go.mod of a folder here asks for.
version_of() { awk -v module="$1" '$1 == module && $2 ~ /^v/ {print $2}' "$hack/$2/go.mod"; }

# fetch_kubelet: makes sure that the kubelet is at hand, built from its Go module, and prints its path.
fetch_kubelet() {
    local version kubelet
    version=$(version_of k8s.io/kubernetes kubernetes)
    kubelet=$cache/kubelet-$version
    with_lock kubelet build_kubelet "$version" "$kubelet" >&2
    echo "$kubelet"
}

# build_kubelet VERSION FILE
build_kubelet() {
    [[ -x $2 ]] && return
    command -v go >/dev/null || die "the kubelet is built from source and needs Go 1.26 or newer"
    say "building the kubelet $1"
    local flags="-s -w -X k8s.io/component-base/version.gitVersion=$1"
    (cd "$hack/kubernetes" && CGO_ENABLED=0 nice -n 19 go build -p 2 -ldflags "$flags" -o "$2.new" \
        k8s.io/kubernetes/cmd/kubelet)
    mv "$2.new" "$2"
}

# free_port: a TCP port that nobody listens on just now, of those that the machine takes neither for calls
# to others (32768 and up, unless set otherwise) nor the tests for themselves.
free_port() {
    python3 - <<'END'
import random, socket
for port in random.sample(range(28_000, 32_000), 4_000):
    try:
        socket.socket().bind(("0.0.0.0", port))
    except OSError:
        continue
    print(port)
    break
END
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# end_process PID [SECONDS]: ends one process, by force if it does not go.
end_process() {
    local pid=$1
    kill "$pid" 2>/dev/null || return 0
    if ! wait_for "${2:-10}" not_running "$pid"; then
        kill -9 "$pid" 2>/dev/null || true
        wait_for 10 not_running "$pid" || say "process $pid does not end"
    fi
}

# not_running PID: nothing of the process is left, but perhaps a zombie that its parent does not care for. The first
# thread is a zombie as soon as it ends itself; ports and files stay the process's until the others have ended too.
not_running() {
    local fields
    # After the name: the state first, the number of threads 17 fields on.
    fields=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 0
    # shellcheck disable=SC2086
    set -- $fields
    [[ -z ${1:-} ]] || [[ $1 == Z ]] && ((${18:-0} <= 1))
}

# build_kubernetes FOLDER PROGRAM...: builds programs of the Kubernetes module into a folder.
build_kubernetes() {
    local folder=$1 version number package=k8s.io/component-base/version
    shift
    [[ ! -d $folder ]] || return 0
    command -v go >/dev/null || die "Kubernetes is built from source and needs Go 1.26 or newer"
    version=$(version_of k8s.io/kubernetes kubernetes)
    number=${version#v}
    say "building $* $version"
    local flags="-s -w -X $package.gitVersion=$version -X $package.gitTreeState=clean"
    flags+=" -X $package.gitMajor=${number%%.*} -X $package.gitMinor=$(cut -d. -f2 <<<"$number")"
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    (cd "$hack/kubernetes" && CGO_ENABLED=0 nice -n 19 go build -p 2 -ldflags "$flags" -o "$folder.new/" \
        "${@/#/k8s.io/kubernetes/cmd/}")
    mv "$folder.new" "$folder"
}

# install_packages PACKAGE...: installs those that are missing here, from the machine's own apt sources.
install_packages() {
    local package state missing=()
    for package in "$@"; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [[ $state == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300
        --no-install-recommends install)
    # A machine that never asked its sources knows no packages.
    "${install[@]}" "${missing[@]}" >/dev/null 2>&1 || {
        apt-get -qq update
        "${install[@]}" "${missing[@]}" >/dev/null
    }
}

# debian_source SUITE: the line of a sources.list for a suite of Debian, from the mirror that this machine uses.
debian_source() {
    local mirror
    mirror=$(apt-cache policy | sed -n 's/^ *[0-9]* \(http[^ ]*\/debian\/\{0,1\}\) .*/\1/p' | head -1)
    [[ -n $mirror ]] || mirror=$(apt-get indextargets --format '$(SITE)' | head -1)
    [[ -n $mirror ]] || die "cannot tell which Debian mirror this machine uses"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main"
}

# unpack_packages SUITE FOLDER PACKAGE...: unpacks packages of a suite, with an apt state of its own.
unpack_packages() {
    local suite=$1 folder=$2 apt package
    shift 2
    apt=$(mktemp -d "$cache/apt.XXXXXX")
    mkdir -p "$apt"/{lists/partial,archives/partial,parts}
    debian_source "$suite" >"$apt/sources.list"
    local options=(-o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts="$apt/parts"
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives"
        -o APT::Sandbox::User=root)
    apt-get -qq "${options[@]}" update
    (cd "$apt" && apt-get -qq "${options[@]}" download "${@/%//$suite}" >/dev/null)
    for package in "$apt"/*.deb; do
        dpkg -x "$package" "$folder"
    done
    rm -rf "$apt"
}

# remove_cgroup FOLDER: removes a cgroup with those in it, once the last of its processes is over.
remove_cgroup() { [[ ! -e $1 ]] || find "$1" -depth -type d -exec rmdir {} +; }
