#!/bin/sh
# The entry point of an image that repo2docker has built from a repository with a Dockerfile or other
# needs of its own. The repository's files are in /srv/repo; people work on a copy in their home, so
# that it is still there when the server has ended. A file that is there already is never written
# over, and each version of the repository is copied once.
folder="${HOME:=/home/jovyan}/${REPO_NAME:-repository}"
done="$HOME/.local/share/studovna/repositories"
mark="$done/${REPO_NAME:-repository}-${REPO_REF:-none}"
if [ ! -e "$mark" ] || [ ! -d "$folder" ]; then
    # The image's cp may be older than --update=none, which those after it want instead of -n.
    if mkdir -p "$folder" "$done" && {
        cp -R --preserve=mode,links --update=none /srv/repo/. "$folder/" 2>/dev/null ||
            cp -R -n /srv/repo/. "$folder/"
    }; then
        : > "$mark"
    else
        echo "The repository's files could not all be copied into the home; they are in /srv/repo." >&2
    fi
fi
[ -d "$folder" ] && cd "$folder" || cd /srv/repo || exit 1
exec "$@"
