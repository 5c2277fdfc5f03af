"""Where images come from: registries, archive files, web servers."""
