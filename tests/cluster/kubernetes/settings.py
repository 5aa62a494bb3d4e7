"""The settings of the node's programs: files in the state folder, and command lines."""

from __future__ import annotations

import datetime
import io
import json
import shutil
import tarfile
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

NODE = "node1"
BRIDGE = "studovna-kube"
ADDRESS = "10.247.0.1"
"""The node's address, on the bridge: pods reach it, other machines do not."""
PODS = "10.247.0.0/24"
SERVICES = "10.97.0.0/16"
PORTS = {
    "api": 16443,
    "etcd": 12379,
    "etcd-peers": 12380,
    "kubelet": 11250,
    "proxy-health": 11256,
    "proxy-metrics": 11249,
    "registry": 5100,
}
REGISTRY = f"{ADDRESS}:{PORTS['registry']}"
"""The registry beside the cluster, by the name under which pods and the node know it."""
PAUSE = "localhost/pause:1"
STORAGE_CLASS = "standard"
PROVISIONER = "studovna.test/folders"


def write(state: Path, token: str) -> None:
    """Make the state folder with all that the programs read. `token` is the administrator's."""
    state.mkdir(mode=0o700, parents=True)
    for folder in ("etcd", "api", "cni", "kubelet", "registries.d"):
        (state / folder).mkdir()
    (state.parent / "registry").mkdir(exist_ok=True)
    (state / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    _json(state / "kubeconfig", _kubeconfig(token))
    _keys(state)
    (state / "containerd.toml").write_text(_containerd(state))
    mirror = state / "registries.d" / REGISTRY
    mirror.mkdir()
    # The server as well: what the host does not have is asked of it, by https without this.
    (mirror / "hosts.toml").write_text(
        f'server = "http://{REGISTRY}"\n\n'
        f'[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    _json(state / "cni" / "10-bridge.conflist", _cni())
    _json(state / "kubelet.json", _kubelet(state))
    _json(state / "registry.json", _registry(state))
    _json(state / "objects.json", _objects())
    (state / "hosts").write_text("")


def command(name: str, state: Path, programs: Path) -> list[str]:
    """The command line of a program."""
    kubeconfig = f"--kubeconfig={state / 'kubeconfig'}"
    etcd = f"http://127.0.0.1:{PORTS['etcd']}"
    peers = f"http://127.0.0.1:{PORTS['etcd-peers']}"
    own = str(programs / name)
    lines: dict[str, list[str]] = {
        "etcd": [
            "etcd",
            f"--data-dir={state / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",  # what is here is thrown away with the machine's next start
        ],
        "containerd": ["containerd", "--config", str(state / "containerd.toml")],
        "registry": ["docker-registry", "serve", str(state / "registry.json")],
        "kube-apiserver": [
            own,
            f"--etcd-servers={etcd}",
            f"--cert-dir={state / 'api'}",
            f"--bind-address={ADDRESS}",
            f"--advertise-address={ADDRESS}",
            f"--secure-port={PORTS['api']}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--service-account-key-file={state / 'accounts.key'}",
            f"--service-account-signing-key-file={state / 'accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={state / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={state / 'kubelet-client.crt'}",
            f"--kubelet-client-key={state / 'kubelet-client.key'}",
        ],
        "kube-controller-manager": [
            own,
            kubeconfig,
            "--leader-elect=false",
            "--port=0",
            "--secure-port=0",
            f"--service-account-private-key-file={state / 'accounts.key'}",
            f"--root-ca-file={state / 'api' / 'apiserver.crt'}",
            # A pod of a node that is gone is evicted soon, so that a test need not wait for it.
            "--node-monitor-grace-period=20s",
        ],
        "kube-scheduler": [own, kubeconfig, "--leader-elect=false", "--port=0", "--secure-port=0"],
        "kubelet": [
            own,
            kubeconfig,
            f"--config={state / 'kubelet.json'}",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{state / 'containerd.sock'}",
            f"--root-dir={state / 'kubelet'}",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        ],
        "kube-proxy": [
            own,
            kubeconfig,
            f"--hostname-override={NODE}",
            f"--cluster-cidr={PODS}",
            "--conntrack-max-per-core=0",
            f"--healthz-bind-address=127.0.0.1:{PORTS['proxy-health']}",
            f"--metrics-bind-address=127.0.0.1:{PORTS['proxy-metrics']}",
        ],
        "dnsmasq": [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-hosts",
            f"--addn-hosts={state / 'hosts'}",
            f"--listen-address={ADDRESS}",
            f"--interface={BRIDGE}",
            "--except-interface=lo",
            "--bind-dynamic",
            "--local=/cluster.local/",
            "--user=root",
            "--pid-file=",
        ],
    }
    return lines[name]


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))


def _kubeconfig(token: str) -> dict[str, object]:
    server = {"server": f"https://{ADDRESS}:{PORTS['api']}", "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": server}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "admin"}}],
        "current-context": "local",
    }


def _containerd(state: Path) -> str:
    return f"""version = 2
root = "{state}/containerd"
state = "{state}/containerd-run"
[grpc]
  address = "{state}/containerd.sock"
[ttrpc]
  address = "{state}/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE nothing can be taken out of the reach of the memory killer.
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{state}/registries.d"
"""


def _cni() -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": PODS, "gateway": ADDRESS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.3.1", "name": "studovna", "plugins": [bridge, ports]}


def _kubelet(state: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "port": PORTS["kubelet"],
        "healthzPort": 0,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(state / "kubelet-client.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        # All that a small machine has, but a sign of life every now and then.
        "nodeStatusUpdateFrequency": "5s",
        "maxPods": 200,
    }


def _registry(state: Path) -> dict[str, object]:
    return {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(state.parent / "registry")},
            "delete": {"enabled": True},
        },
        "http": {"addr": REGISTRY},
    }


def _objects() -> dict[str, object]:
    """What every cluster has, and an API server alone does not."""
    storage = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
    }
    return {"apiVersion": "v1", "kind": "List", "items": [storage]}


def _keys(state: Path) -> None:
    """The key that signs service accounts' tokens, and the API server's way to the kubelet."""
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (state / "accounts.key").write_bytes(_pem(accounts))
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (state / "kubelet-client.key").write_bytes(_pem(key))
    text = certificate.public_bytes(serialization.Encoding.PEM)
    (state / "kubelet-client.crt").write_bytes(text)


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def write_pause_image(archive: Path) -> None:
    """The image of a pod's sandbox: one small program that waits for ever, and reaps.

    A Docker archive: https://github.com/moby/docker-image-spec
    """
    program = Path(shutil.which("catatonit") or "/usr/libexec/podman/catatonit").read_bytes()
    layer = _tar({"pause": program}, mode=0o755)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause", "-P"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "config.json": config,
        "layer.tar": layer,
    }
    archive.write_bytes(_tar(files, mode=0o644))


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
