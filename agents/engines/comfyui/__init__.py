"""ComfyUI: image workflows."""
