"""The commands of `openrlhf-sfpo`, one file each."""

from openrlhf_sfpo.system.search_path import leave_out_current_directory, leave_out_empty_entries

# Before the commands import anything.
leave_out_current_directory()
leave_out_empty_entries()
