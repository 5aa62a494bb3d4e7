"""Snakemake's executor for Kubernetes, from within a server: rules become jobs beside it.

They run in the person's own namespace, with the server's image and the person's home, as pods that
Pod Security *restricted* admits. What watches and tells about them is Snakemake's own executor.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import kubernetes
from snakemake_executor_plugin_kubernetes import Executor as KubernetesExecutor
from snakemake_executor_plugin_kubernetes import PersistentVolume
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase

from .jobs import Place, restricted

common_settings = CommonSettings(
    non_local_exec=True,
    # The home is there in every job, at the same path.
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    # Instead of a secret: who may read this namespace's jobs may read its secrets as well.
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """What the executor of Kubernetes has options for, and is settled here: no fields."""

    cpu_scalar = 1.0
    service_account_name = None
    privileged = False
    omit_job_cleanup = False


class Jobs(kubernetes.client.BatchV1Api):
    """Jobs, made as the namespace admits them."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def create_namespaced_job(self, namespace, body, **more):
        return super().create_namespaced_job(namespace, restricted(body, self.place), **more)


class Pods(kubernetes.client.CoreV1Api):
    """Pods; a job's container is never started twice, so what it said is in its only log."""

    def read_namespaced_pod_log(self, name, namespace, **more):
        return super().read_namespaced_pod_log(name, namespace, **{**more, "previous": False})


class Executor(KubernetesExecutor):
    def __post_init__(self) -> None:
        try:
            self.place = Place.read(os.environ, Path.cwd())
        except LookupError as error:
            raise WorkflowError(str(error)) from None
        self.k8s_cpu_scalar = ExecutorSettings.cpu_scalar
        self.k8s_service_account_name = ExecutorSettings.service_account_name
        self.privileged = ExecutorSettings.privileged
        self.namespace = self.place.namespace
        self.container_image = self.place.image
        self.persistent_volumes = [PersistentVolume(self.place.claim, self.place.home)]
        self.run_namespace = f"{self.place.pod_uid}-{os.getpid()}-{os.times().elapsed}"
        self.secret_envvars = {}
        self.log_path = self.workflow.persistence.aux_path / "kubernetes-logs"
        self.log_path.mkdir(exist_ok=True, parents=True)
        self._sign_in()

    def _sign_in(self) -> None:
        """As the server, never with a kubeconfig of the person, which is for another cluster."""
        kubernetes.config.load_incluster_config()
        self.kubeapi = Pods()
        self.batchapi = Jobs(self.place)

    def _reauthenticate_and_retry(self, func=None):
        self._sign_in()
        return func() if func else None

    def register_secret(self) -> None:
        """There is none."""

    def unregister_secret(self) -> None:
        """There is none."""

    def safe_delete_job(self, jobid, ignore_not_found=True) -> None:
        """The job, and by Kubernetes its pod: no right over other pods is needed."""
        try:
            self.batchapi.delete_namespaced_job(
                jobid, self.namespace, propagation_policy="Background"
            )
        except kubernetes.client.rest.ApiException as error:
            if error.status != 404 or not ignore_not_found:
                raise
