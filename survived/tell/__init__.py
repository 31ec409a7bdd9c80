"""Tell: notices in a short-lived child, the control socket, the status document, systemd."""
