"""What runs inside a build pod: fetch, install and export, each in a container of its own.

Standard library only (repo2docker is imported where a record is fetched), so that a container is at
work a tenth of a second after its start. They meet in shared folders and in `plan.json`; what they
have to say to the service goes into their logs, as lines that begin with `report.MARK`.
"""
