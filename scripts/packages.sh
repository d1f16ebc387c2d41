# shellcheck shell=bash
# System packages. Each line: command, Debian package, what it is for.
# `tarn doctor` checks at run time what this installs.

readonly HOST_TOOLS='
ip          iproute2          sandbox networks
nft         nftables          sandbox networks
mkfs.ext4   e2fsprogs         sandbox disks
mkfs.xfs    xfsprogs          the storage pool
losetup     mount             sandbox disks
flock       util-linux        set-up
modprobe    kmod              kernel modules
ps          procps            diagnosis
mmdebstrap  mmdebstrap        the stock image
zstd        zstd              unpacking gVisor
curl        curl              downloads
git         git               builds
cc          gcc               builds
make        make              builds
'
# Libraries and data that no command shows.
readonly HOST_DATA='ca-certificates libc6-dev'
readonly TEST_TOOLS='
python3     python3           test clients
shellcheck  shellcheck        checks of the shell scripts
'
readonly TEST_DATA='python3-venv'

# Installs what is missing: setup_packages WITH_TEST(yes|no).
setup_packages() {
	local tools="$HOST_TOOLS" data="$HOST_DATA"
	if [[ $1 == yes ]]; then
		tools+="$TEST_TOOLS"
		data+=" $TEST_DATA"
	fi
	if have apt-get && have dpkg-query; then
		install_packages "$tools" "$data"
	else
		require_commands "$tools"
	fi
}

install_packages() {
	local wanted missing start
	wanted="$(awk 'NF { print $2 }' <<<"$1") $2"
	missing="$(missing_packages "$wanted" "$1")"
	[[ -n $missing ]] || return 0
	start=$SECONDS
	say setup "packages: installing $missing…"
	# shellcheck disable=SC2086 # a list of names
	with_lock apt_install $missing ||
		die "some packages cannot be installed" "apt-get update && apt-get install $missing"
	say setup "packages: installed ($(seconds_since "$start"))"
}

# A package counts as present when it is installed, or when the command it is
# wanted for is there from elsewhere.
missing_packages() {
	local installed package command name missing=()
	# shellcheck disable=SC2086 # a list of names
	installed="$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $1 2>/dev/null || true)"
	for package in $1; do
		grep -qx "installed $package" <<<"$installed" && continue
		name="$(awk -v p="$package" '$2 == p { print $1 }' <<<"$2")"
		for command in $name; do
			have "$command" && continue 2
		done
		missing+=("$package")
	done
	echo "${missing[*]}"
}

# Runs under the lock. Refreshes the lists only when the installation needs it.
apt_install() {
	local try
	export DEBIAN_FRONTEND=noninteractive
	for try in 1 2 3; do
		logged packages apt_get_install "$@" 2>/dev/null && return 0
		say setup "packages: refreshing the package lists (try $try)…"
		logged package-lists apt-get -q update 9>&- || sleep 3
	done
	logged packages apt_get_install "$@"
}

apt_get_install() {
	apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$@" 9>&-
}

require_commands() {
	local command package purpose complete=yes
	while read -r command package purpose; do
		[[ -n $command ]] || continue
		have "$command" && continue
		complete=no
		say setup "missing: $command ($package in Debian), for $purpose"
	done <<<"$1"
	[[ $complete == yes ]] ||
		die "this system has no apt, so x cannot install what is missing" "install the commands named above, then run x again"
}
