"""The only room that knows OpenRLHF: our Ray actors, and the hooks that put them in OpenRLHF's places."""
