# shellcheck shell=bash
# The stock image: this machine's distribution, bootstrapped from its packages.
#
#   images/<digest12>/rootfs/     the read-only tree
#   images/<digest12>/image.json  names, digest, defaults; written last
#   images/recipe-<hash12>        the digest that a recipe led to, as text
#
# The digest is of the tree itself (a sorted tar without times). A changed
# recipe makes a new image, which takes the names over; the old tree stays,
# because sandboxes and snapshots refer to it.

# Counts changes of this file that change the image; the files in scripts/image/
# count by themselves.
readonly IMAGE_RECIPE=2
# Any fixed time: it keeps dates of the build out of the tree.
readonly IMAGE_EPOCH=1767225600
readonly IMAGE_NAMES='["tensorlake/ubuntu-minimal","tensorlake/debian-minimal"]'

setup_image() {
	local recipe
	# shellcheck source=/dev/null
	recipe="$(recipe_hash "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")")"
	image_is_there "$recipe" || with_lock install_image "$recipe"
}

# Identifies what the image is made from: recipe_hash CODENAME.
recipe_hash() {
	cat scripts/image/packages scripts/image/customize - <<<"$IMAGE_RECIPE $1" |
		sha256sum | cut -c 1-12
}

image_is_there() {
	local digest
	digest="$(cat "$TARN_ASSETS_DIR/images/recipe-$1" 2>/dev/null)" || return 1
	[[ -s $TARN_ASSETS_DIR/images/$digest/image.json ]]
}

# Runs under the lock.
install_image() {
	image_is_there "$1" && return 0
	local start=$SECONDS images="$TARN_ASSETS_DIR/images" tmp codename id digest
	# shellcheck source=/dev/null
	read -r id codename < <(. /etc/os-release && echo "$ID ${VERSION_CODENAME:-}") || true
	[[ $id == debian || $id == ubuntu ]] ||
		die "the stock image is built from the packages of Debian or Ubuntu; this is '$id'" \
			"copy the directory images/ of the assets of a Debian or Ubuntu machine to $images"
	say setup "image: bootstrapping $id $codename (about 40 s)…"

	rm -rf --one-file-system -- "$images"/.tmp-*
	tmp="$(mktemp -d "$images/.tmp-XXXXXX")"
	# shellcheck disable=SC2064 # expand now
	trap "rm -rf --one-file-system -- '$tmp'" EXIT
	chmod 755 "$tmp"
	logged image-bootstrap bootstrap "$tmp/rootfs" "$id" "$codename" ||
		die "the stock image cannot be bootstrapped" "check that \`apt-get update\` works here, then run x again"
	SOURCE_DATE_EPOCH=$IMAGE_EPOCH logged image-customize scripts/image/customize "$tmp/rootfs" "$codename" ||
		die "the stock image cannot be customized"
	digest="$(tree_digest "$tmp/rootfs")"
	image_json "$digest" >"$tmp/image.json"
	adopt_image "$tmp" "${digest:0:12}"
	write_file "$images/recipe-$1" <<<"${digest:0:12}"
	say setup "image: ${digest:0:12} ready ($(seconds_since "$start"), $(du -sh "$images/${digest:0:12}" | cut -f 1))"
}

# Moves a finished image into place and takes the names from older ones.
adopt_image() {
	local tmp="$1" digest="$2" images="$TARN_ASSETS_DIR/images" old
	if [[ ! -s $images/$digest/image.json ]]; then
		mv -T -- "$tmp" "$images/$digest"
	fi
	for old in "$images"/*/image.json; do
		[[ $old != "$images/$digest/image.json" ]] || continue
		grep -q '"default":true' "$old" || continue
		sed -e 's/"names":\[[^]]*\]/"names":[]/' -e 's/"default":true/"default":false/' "$old" |
			write_file "$old"
	done
}

bootstrap() {
	local root="$1" id="$2" codename="$3" proxy options=()
	# The machine's own proxy, for the build alone.
	proxy="$(apt-config shell p Acquire::http::Proxy | sed -n "s/^p='\(.*\)'/\1/p")"
	[[ -z $proxy || $proxy == DIRECT ]] || options+=(--aptopt="Acquire::http::Proxy \"$proxy\"")
	proxy="$(apt-config shell p Acquire::https::Proxy | sed -n "s/^p='\(.*\)'/\1/p")"
	[[ -z $proxy || $proxy == DIRECT ]] || options+=(--aptopt="Acquire::https::Proxy \"$proxy\"")
	image_sources "$id" "$codename" >"$root.list" || return 1
	cat "$root.list"
	TMPDIR="$(dirname -- "$root")" SOURCE_DATE_EPOCH=$IMAGE_EPOCH mmdebstrap \
		--mode=root --variant=minbase --format=directory "${options[@]}" \
		--include="$(paste -sd , scripts/image/packages)" \
		"$codename" "$root" "$root.list" || return 1
	rm -f -- "$root.list"
}

# The package sources this machine already uses for its distribution; the
# public mirrors when it has none in working order.
image_sources() {
	local id="$1" codename="$2" keyring="/usr/share/keyrings/$1-archive-keyring.gpg" components=main lines
	[[ $id == debian ]] || components="main universe"
	[[ -r $keyring ]] || { echo "no archive keyring at $keyring" && return 1; }
	lines="$(configured_sources "$id" "$codename" "$keyring" "$components")"
	if [[ -z $lines ]]; then
		apt-get -q update >&2 9>&- || true
		lines="$(configured_sources "$id" "$codename" "$keyring" "$components")"
	fi
	if [[ -z $lines ]]; then
		local mirror=http://deb.debian.org/debian
		[[ $id == debian ]] || mirror=http://archive.ubuntu.com/ubuntu
		lines="deb [signed-by=$keyring] $mirror $codename $components"
	fi
	printf '%s\n' "$lines"
}

configured_sources() {
	# shellcheck disable=SC2016 # apt expands these
	apt-get indextargets --format '$(ORIGIN)|$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		awk -F '|' -v id="$1" -v code="$2" -v key="$3" -v comps="$4" '
			tolower($1) != id || seen[$2, $3]++ { next }
			$2 == code || $2 == code "-updates" || $2 == code "-security" {
				print "deb [signed-by=" key "] " $3 " " $2 " " comps
			}'
}

tree_digest() {
	tar --create --sort=name --numeric-owner --mtime="@$IMAGE_EPOCH" --format=posix \
		--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
		--xattrs --directory "$1" . | sha256sum | cut -d ' ' -f 1
}

image_json() {
	local path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	printf '{"format_version":1,"digest":"sha256:%s","names":%s,"default":true,' "$1" "$IMAGE_NAMES"
	printf '"config":{"env":["PATH=%s","LANG=C.UTF-8"],' "$path"
	printf '"user":"tl-user","working_dir":"","entrypoint":[],"cmd":[]}}\n'
}
