# shellcheck shell=bash
# The stock images: this machine's distribution, bootstrapped from its packages.
#
#   images/<digest12>/rootfs/     the read-only tree
#   images/<digest12>/image.json  names, digest, defaults; written last
#   images/recipe-<hash12>        the digest that a recipe led to, as text
#
# The digest is of the tree itself (a sorted tar without times). A changed
# recipe makes a new image, which takes the names over; the old tree stays,
# because sandboxes and snapshots refer to it.
#
# A recipe is a directory of scripts/image/: `packages`, more of them for one
# distribution in `packages.<id>`, `files/` to lay over the tree, `customize`.
# The minimal image is the base of the others: their packages come on top of
# its packages, and its `customize` runs last.

readonly IMAGE_BASE=ubuntu-minimal
readonly IMAGE_RECIPES=(ubuntu-minimal ubuntu-vnc)
# What of the recipes is a program, for the checks.
# shellcheck disable=SC2034 # read by the other pieces
readonly IMAGE_SCRIPTS=(scripts/image/*/customize scripts/image/ubuntu-vnc/files/usr/local/bin/*)
# Counts changes of this file that change the images; the files in
# scripts/image/ count by themselves.
readonly IMAGE_RECIPE=2
# Any fixed time: it keeps dates of the build out of the tree.
readonly IMAGE_EPOCH=1767225600
readonly IMAGE_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# What `image.json` says of a recipe: image_names, image_is_default,
# image_env, image_entrypoint RECIPE.
image_names() {
	case "$1" in
	ubuntu-minimal) echo '"tensorlake/ubuntu-minimal","tensorlake/debian-minimal"' ;;
	*) echo "\"tensorlake/$1\"" ;;
	esac
}

image_is_default() {
	[[ $1 == "$IMAGE_BASE" ]] && echo true || echo false
}

image_env() {
	printf '"PATH=%s","LANG=C.UTF-8"' "$IMAGE_PATH"
	[[ $1 == ubuntu-vnc ]] || return 0
	# So that programs run from outside appear on the desktop.
	printf ',"DISPLAY=:1"'
	# The sandbox of Ubuntu's browser wants to set up a loopback of its own, and
	# gVisor refuses that.
	[[ $(image_distribution) != ubuntu* ]] || printf ',"WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS=1"'
}

image_entrypoint() {
	[[ $1 != ubuntu-vnc ]] || printf '"/usr/local/bin/start-desktop"'
}

# About how long a build takes and what it leaves, for the lines that announce it.
image_cost() {
	case "$1" in
	ubuntu-vnc) echo "about 100 s, 1.2 GB" ;;
	*) echo "about 40 s, 0.3 GB" ;;
	esac
}

# This machine's distribution: its id and its release's name.
image_distribution() {
	# shellcheck source=/dev/null
	(. /etc/os-release && echo "$ID ${VERSION_CODENAME:-}")
}

# The images that every set-up makes.
setup_image() {
	ensure_image "$IMAGE_BASE"
}

# Makes an image unless it is there: ensure_image RECIPE.
ensure_image() {
	image_is_there "$1" || with_lock install_image "$1"
}

# `x image`: lists the stock images, or makes one.
image() {
	require_platform
	case $# in
	0) list_images ;;
	1)
		local recipe="${1#tensorlake/}"
		[[ " ${IMAGE_RECIPES[*]} " == *" $recipe "* ]] ||
			usage_error "there is no stock image '$1'; there are ${IMAGE_RECIPES[*]}"
		require_root "building an image"
		prepare_dirs
		setup_packages no
		ensure_image "$recipe"
		say setup "image: tensorlake/$recipe is there; a running server knows it already"
		;;
	*) usage_error "image takes the name of one stock image, or nothing" ;;
	esac
}

list_images() {
	local recipe digest
	for recipe in "${IMAGE_RECIPES[@]}"; do
		if digest="$(image_built "$recipe")"; then
			printf '%-28s %s  %s\n' "tensorlake/$recipe" "$digest" \
				"$(du -sh "$TARN_ASSETS_DIR/images/$digest" | cut -f 1)"
		elif digest="$(image_named "tensorlake/$recipe")"; then
			printf '%-28s %s  %s, of an older recipe; ./x image %s makes the new one (%s)\n' \
				"tensorlake/$recipe" "$digest" "$(du -sh "$TARN_ASSETS_DIR/images/$digest" | cut -f 1)" \
				"$recipe" "$(image_cost "$recipe")"
		else
			printf '%-28s not built; ./x image %s makes it (%s)\n' \
				"tensorlake/$recipe" "$recipe" "$(image_cost "$recipe")"
		fi
	done
}

# Prints the digest of the image that has a name, however it came there.
image_named() {
	local file
	for file in "$TARN_ASSETS_DIR"/images/*/image.json; do
		if grep -qsF "\"$1\"" "$file"; then
			basename -- "$(dirname -- "$file")"
			return 0
		fi
	done
	return 1
}

# Identifies what an image is made from. The base's hash covers what it always
# did, so that images of earlier checkouts count.
recipe_hash() {
	local id codename base=scripts/image/$IMAGE_BASE dir=scripts/image/$1 file
	read -r id codename < <(image_distribution) || true
	{
		cat "$base/packages" "$base/customize"
		if [[ $1 != "$IMAGE_BASE" ]]; then
			echo "$1 $id"
			while IFS= read -r file; do
				printf '%s\n' "$file"
				cat -- "$file"
			done < <(find "$dir" -type f ! -path "$dir/packages.*" -o -path "$dir/packages.$id" | LC_ALL=C sort)
		fi
		echo "$IMAGE_RECIPE $codename"
	} | sha256sum | cut -c 1-12
}

# Prints the digest that a recipe led to; fails when its tree is not there.
image_tree() {
	local digest
	digest="$(cat "$TARN_ASSETS_DIR/images/recipe-$(recipe_hash "$1")" 2>/dev/null)" || return 1
	[[ -s $TARN_ASSETS_DIR/images/$digest/image.json ]] || return 1
	echo "$digest"
}

# The same; fails, too, when another recipe's image has the names.
image_built() {
	local digest
	digest="$(image_tree "$1")" || return 1
	grep -qF "\"tensorlake/$1\"" "$TARN_ASSETS_DIR/images/$digest/image.json" || return 1
	echo "$digest"
}

image_is_there() {
	image_built "$1" >/dev/null
}

# Runs under the lock: install_image RECIPE.
install_image() {
	image_is_there "$1" && return 0
	local start=$SECONDS images="$TARN_ASSETS_DIR/images" recipe tmp codename id digest
	if digest="$(image_tree "$1")"; then
		# From a recipe that was replaced and came back.
		digest="$(sed -n 's/.*"digest":"sha256:\([0-9a-f]*\)".*/\1/p' "$images/$digest/image.json")"
		adopt_image "$1" "$digest"
		return 0
	fi
	# Of the files as they are now: what changes during the build makes another image.
	recipe="$(recipe_hash "$1")"
	read -r id codename < <(image_distribution) || true
	[[ $id == debian || $id == ubuntu ]] ||
		die "the stock images are built from the packages of Debian or Ubuntu; this is '$id'" \
			"copy the directory images/ of the assets of a Debian or Ubuntu machine to $images"
	say setup "image: bootstrapping $id $codename as tensorlake/$1 ($(image_cost "$1"))…"

	rm -rf --one-file-system -- "$images"/.tmp-*
	tmp="$(mktemp -d "$images/.tmp-XXXXXX")"
	# shellcheck disable=SC2064 # expand now
	trap "rm -rf --one-file-system -- '$tmp'" EXIT
	chmod 755 "$tmp"
	logged_steps image-bootstrap bootstrap "$1" "$tmp/rootfs" "$id" "$codename" ||
		die "the stock image cannot be bootstrapped" "check that \`apt-get update\` works here, then run x again"
	SOURCE_DATE_EPOCH=$IMAGE_EPOCH logged image-customize customize "$1" "$tmp/rootfs" "$codename" ||
		die "the stock image cannot be customized"
	digest="$(tree_digest "$tmp/rootfs")"
	[[ -s $images/${digest:0:12}/image.json ]] || mv -T -- "$tmp" "$images/${digest:0:12}"
	adopt_image "$1" "$digest"
	write_file "$images/recipe-$recipe" <<<"${digest:0:12}"
	say setup "image: tensorlake/$1 is ${digest:0:12} ($(seconds_since "$start"), $(du -sh "$images/${digest:0:12}" | cut -f 1))"
}

# Describes a tree that is in place, and takes the names from older ones:
# adopt_image RECIPE DIGEST.
adopt_image() {
	local images="$TARN_ASSETS_DIR/images" mine old
	mine="$images/${2:0:12}/image.json"
	image_json "$1" "$2" | write_file "$mine"
	for old in "$images"/*/image.json; do
		[[ $old != "$mine" ]] || continue
		grep -qF "\"tensorlake/$1\"" "$old" || continue
		sed -e 's/"names":\[[^]]*\]/"names":[]/' -e 's/"default":true/"default":false/' "$old" |
			write_file "$old"
	done
}

# Runs mmdebstrap with its output in a log, and says each of its longer steps
# as it comes: logged_steps NAME COMMAND…
logged_steps() {
	local log="$TARN_ASSETS_DIR/log/$1.log" start=$SECONDS line
	shift
	if ! "$@" 2>&1 </dev/null 9>&- | while IFS= read -r line; do
		printf '%s\n' "$line"
		case "$line" in
		'I: downloading packages'* | 'I: extracting'* | 'I: installing'* | 'I: cleaning'*)
			say setup "image: ${line#I: } ($(seconds_since "$start"))"
			;;
		esac
	done >"$log"; then
		tail -n 30 "$log" >&2
		printf 'x: the full log is %s\n' "$log" >&2
		return 1
	fi
}

# The image's own `customize` first: the base's cleans up.
customize() {
	local recipe="$1"
	shift
	if [[ $recipe != "$IMAGE_BASE" ]]; then
		"scripts/image/$recipe/customize" "$@" || return 1
	fi
	"scripts/image/$IMAGE_BASE/customize" "$@"
}

# The packages of a recipe on a distribution, joined by commas.
image_packages() {
	local list files=("scripts/image/$IMAGE_BASE/packages")
	if [[ $1 != "$IMAGE_BASE" ]]; then
		for list in "scripts/image/$1/packages" "scripts/image/$1/packages.$2"; do
			[[ ! -e $list ]] || files+=("$list")
		done
	fi
	cat -- "${files[@]}" | paste -sd ,
}

# bootstrap RECIPE ROOT ID CODENAME
bootstrap() {
	local recipe="$1" root="$2" id="$3" codename="$4" proxy options=()
	# The machine's own proxy, for the build alone.
	proxy="$(apt-config shell p Acquire::http::Proxy | sed -n "s/^p='\(.*\)'/\1/p")"
	[[ -z $proxy || $proxy == DIRECT ]] || options+=(--aptopt="Acquire::http::Proxy \"$proxy\"")
	proxy="$(apt-config shell p Acquire::https::Proxy | sed -n "s/^p='\(.*\)'/\1/p")"
	[[ -z $proxy || $proxy == DIRECT ]] || options+=(--aptopt="Acquire::https::Proxy \"$proxy\"")
	image_sources "$id" "$codename" >"$root.list" || return 1
	cat "$root.list"
	TMPDIR="$(dirname -- "$root")" SOURCE_DATE_EPOCH=$IMAGE_EPOCH mmdebstrap \
		--mode=root --variant=minbase --format=directory "${options[@]}" \
		--include="$(image_packages "$recipe" "$id")" \
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

# image_json RECIPE DIGEST
image_json() {
	printf '{"format_version":1,"digest":"sha256:%s","names":[%s],"default":%s,' \
		"$2" "$(image_names "$1")" "$(image_is_default "$1")"
	printf '"config":{"env":[%s],"user":"tl-user","working_dir":"","entrypoint":[%s],"cmd":[]}}\n' \
		"$(image_env "$1")" "$(image_entrypoint "$1")"
}
