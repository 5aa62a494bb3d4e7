"""The sentences that the pages' script shows, for translation."""

PAGE_STRINGS: tuple[str, ...] = (
    "Address copied.",
    "Building the image",
    "Built",
    "Cancel the build",
    "Cancelling...",
    "Connection lost, connecting again...",
    "Copy",
    "Enter a repository.",
    "Fetching the repository",
    "Opening the server...",
    "Ready",
    "Saving the image",
    "Starting the server",
    "The last build took {time}.",
    "This is not an address that this provider understands.",
    "Waiting",
    "{minutes} min {seconds} s",
    "{seconds} s",
)
