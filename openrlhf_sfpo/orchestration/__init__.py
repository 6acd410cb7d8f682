"""The only room that imports OpenRLHF: our Ray actors, and the hooks that replace OpenRLHF's with them."""
