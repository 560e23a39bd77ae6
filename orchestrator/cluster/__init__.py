"""Ray nodes on this host: started well, watched, ended. Nothing here imports ray."""
