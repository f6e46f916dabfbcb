# Installs Debian and Ubuntu packages that are missing, and nothing else. Sourced by check and quickstart.
# A package is written NAME, or FIRST|SECOND where the distributions differ; one of them has to be there.

say() { printf '%s\n' "$@"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

package_installed() {
  [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]
}

any_installed() {
  local name
  for name in ${1//|/ }; do
    if package_installed "$name"; then return 0; fi
  done
  return 1
}

# Prints the first of the alternatives that the package lists know.
first_known() {
  local name
  for name in ${1//|/ }; do
    if apt-cache show --no-all-versions "$name" >/dev/null 2>&1; then say "$name"; return 0; fi
  done
  return 1
}

as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    say "Neither root nor sudo: cannot run $*" >&2
    return 1
  fi
}

apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@"; }

# At most once in a run.
update_lists() {
  if [[ -n "${lists_updated:-}" ]]; then return 1; fi
  lists_updated=yes
  say 'Refreshing the package lists'
  apt_get update
}

install_known() {
  local package name names=()
  for package in "$@"; do
    name=$(first_known "$package") || { say "No package $package in the lists"; return 1; }
    names+=("$name")
  done
  apt_get install -y --no-install-recommends "${names[@]}"
}

# install_missing PURPOSE PACKAGE...: true when all of them are installed at the end.
install_missing() {
  local purpose=$1 package missing=()
  shift
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "No apt-get here: install for $purpose by hand: $*"
    return 1
  fi
  for package in "$@"; do
    if ! any_installed "$package"; then missing+=("$package"); fi
  done
  if [[ ${#missing[@]} -eq 0 ]]; then
    say "Packages for $purpose: all installed"
    return 0
  fi
  say "Packages for $purpose: installing ${missing[*]}"
  if install_known "${missing[@]}"; then return 0; fi
  update_lists && install_known "${missing[@]}"
}

# configure FOLDER ARGUMENT...: configures once, and anew when the arguments have changed.
configure() {
  local folder=$1 wanted
  shift
  wanted="${CXX:-} $*"
  if [[ -f $folder/build.ninja && "$(cat "$folder/.configured" 2>/dev/null)" == "$wanted" ]]; then return 0; fi
  rm -rf "$folder"
  meson setup "$folder" "$@"
  printf '%s' "$wanted" >"$folder/.configured"
}
