"""gunicorn as its documentation advises: (2 x cores) + 1 workers."""

import multiprocessing

chdir = "/srv"
bind = "0.0.0.0:8080"
workers = multiprocessing.cpu_count() * 2 + 1
# The root file system is read-only; this is memory in every container.
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
