"""fetch.py ADDRESS SHA256 FILE: download a file that has to be this one."""

import hashlib
import os
import sys
import urllib.request


def main() -> None:
    address, wanted, file = sys.argv[1:]
    digest = hashlib.sha256()
    try:
        # image.yaml lets only web addresses through.
        reply = urllib.request.urlopen(address, timeout=60)  # noqa: S310
        with reply, open(file, "wb") as target:
            while part := reply.read(1 << 20):
                digest.update(part)
                target.write(part)
    except (OSError, ValueError) as error:
        sys.exit(f"RStudio's package cannot be had from {address}: {error}")
    if digest.hexdigest() != wanted:
        os.unlink(file)
        sys.exit(f"{address} is not the file that was meant: its SHA-256 is {digest.hexdigest()}")


main()
