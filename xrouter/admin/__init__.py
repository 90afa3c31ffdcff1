"""What operators ask of a running gateway over HTTP: `/admin/api`, with the admin token."""
