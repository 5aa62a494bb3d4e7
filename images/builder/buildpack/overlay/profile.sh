# Login shells begin with another PATH: the repository's commands come before the Lab's in them, too.
PATH="/srv/env/bin:$PATH"
