# Every cluster of this image is one of MPI ranks: `ipcluster start -n 4`, with any profile.
c = get_config()  # noqa: F821 - IPython gives it
c.IPCluster.engine_launcher_class = "mpi"
c.Cluster.engine_launcher_class = "mpi"
