"""Works out, from the settings, what the stack runs and with which environment."""

import http.client
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.stack.kafka import Kafka
from services.stack.postgres import Postgres
from services.stack.process import Command, Server
from services.stack.redis import Redis
from services.stack.settings import Settings
from services.stack.state import MARK
from services.stack.vault import Secrets
from shared.ports import HOST, free_port
from shared.settings import Keys

# Stopped in this order: the front doors finish what they accepted, then the workers, then the servers.
FRONT_DOORS = ("collector", "inference")


@dataclass(frozen=True)
class Service:
    """One of Ratchet's own processes."""

    name: str
    argv: tuple[str, ...]
    port: int
    environ: Mapping[str, str]
    log_file: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    def command(self) -> Command:
        """Return how to start it."""
        return Command(self.name, self.argv, self.environ, self.log_file.parent, self.log_file, stop_timeout_s=30)

    def fault(self) -> str | None:
        """Return why it is not ready, in its own words, or None."""
        return health_fault(self.port)


@dataclass(frozen=True)
class Plan:
    """All that one stack runs.

    Attributes:
        environ: The RATCHET_ variables that every service gets; what operator commands need as well.
        keys: The default key of each kind, for people.
    """

    data_dir: Path
    loops_dir: Path
    servers: tuple[Server, ...]
    services: tuple[Service, ...]
    environ: Mapping[str, str]
    keys: Mapping[str, str]

    @property
    def logs_dir(self) -> Path:
        """Where every log goes."""
        return self.data_dir / "logs"

    @property
    def artifacts_dir(self) -> Path:
        """The registry's durable store."""
        return self.data_dir / "artifacts"


def url_of(unit: Server | Service) -> str:
    """Return the address to reach a server or service by."""
    if isinstance(unit, (Postgres, Redis, Service)):
        return unit.url
    return f"{HOST}:{unit.port}"


def make(settings: Settings, secrets: Secrets, base: Mapping[str, str],
         program: tuple[str, ...] = (sys.executable, "-m", "services.cli.main")) -> Plan:
    """Lay out the stack.

    Args:
        base: The environment of ``ratchet up`` itself; RATCHET_ variables that the stack does not set pass through.
        program: Runs a service when its name is added.
    """
    data_dir, loops_dir = settings.data_dir.resolve(), settings.loops_dir.resolve()
    logs = data_dir / "logs"
    kafka = Kafka(data_dir / "kafka", settings.kafka_port or free_port(), logs / "kafka.log")
    postgres = Postgres(data_dir / "postgres", settings.postgres_port or free_port(), secrets.postgres_password,
                        logs / "postgres.log")
    redis = Redis(data_dir / "redis", settings.redis_port or free_port(), secrets.redis_password, logs / "redis.log")
    collect = settings.collect_keys or Keys(app=secrets.collect_key)
    infer = settings.infer_keys or Keys(app=secrets.infer_key)
    operate = settings.operate_keys or Keys(operator=secrets.operate_key)
    ports = {
        "collector": settings.collector_port or free_port(), "inference": settings.inference_port or free_port(),
        "processor": settings.processor_port or free_port(), "trainer": settings.trainer_port or free_port(),
    }
    environ = {
        MARK: str(data_dir),
        "RATCHET_DATA_DIR": str(data_dir),
        "RATCHET_LOOPS_DIR": str(loops_dir),
        "RATCHET_ARTIFACTS_DIR": str(data_dir / "artifacts"),
        "RATCHET_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "RATCHET_TOPIC_PREFIX": settings.topic_prefix,
        "RATCHET_POSTGRES_URL": postgres.url,
        "RATCHET_REDIS_URL": redis.url,
        "RATCHET_PSEUDONYM_KEY": settings.pseudonym_key or secrets.pseudonym_key,
        "RATCHET_COLLECT_KEYS": _text(collect),
        "RATCHET_INFER_KEYS": _text(infer),
        "RATCHET_OPERATE_KEYS": _text(operate),
        **{f"RATCHET_{name.upper()}_PORT": str(port) for name, port in ports.items()},
    }
    # Without its .pyc files torch takes 15 s to import instead of 6.
    inherited = {key: value for key, value in base.items() if key != "PYTHONDONTWRITEBYTECODE"}
    common = inherited | {"PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2", "TOKENIZERS_PARALLELISM": "false"} | environ

    def service(name: str, verb: str, **more: str) -> Service:
        mine = common | more
        return Service(name, (*program, verb), int(mine[f"RATCHET_{verb.upper()}_PORT"]), mine, logs / f"{name}.log")

    def threads(count: int) -> dict[str, str]:
        # Spinning OpenMP threads of two processes on two cores slow each other down several times over.
        few = {"OMP_NUM_THREADS": str(count), "OMP_WAIT_POLICY": "PASSIVE"} if count else {}
        return few | {key: base[key] for key in few if key in base}

    workers = [service("processor", "processor", RATCHET_PROCESSOR_INSTANCE="processor-1")] + [
        service(f"processor-{number}", "processor", RATCHET_PROCESSOR_PORT=str(free_port()),
                RATCHET_PROCESSOR_INSTANCE=f"processor-{number}")
        for number in range(2, settings.processor_workers + 1)
    ]
    services = (service("collector", "collector", **threads(1)), *workers,
                service("trainer", "trainer", RATCHET_TRAINER_THREADS=str(settings.trainer_threads),
                        **threads(settings.trainer_threads)),
                service("inference", "inference", RATCHET_INFERENCE_THREADS=str(settings.inference_threads),
                        **threads(settings.inference_threads)))
    keys = {"collect": next(iter(collect.values())), "infer": next(iter(infer.values())),
            "operate": next(iter(operate.values()))}
    return Plan(data_dir, loops_dir, (redis, postgres, kafka), services, environ, keys)


def health_fault(port: int) -> str | None:
    """Return why the service on a port is not ready, or None; takes at most two seconds."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        body = response.read(65536)
    except ConnectionRefusedError:
        return f"it does not listen on port {port} yet"
    except (OSError, http.client.HTTPException) as exc:
        return f"it does not answer: {exc}"
    finally:
        connection.close()
    if response.status == 200:
        return None
    try:
        faults = json.loads(body)["faults"]
        return "; ".join(f"{part}: {why}" for part, why in faults.items())
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"it answers {response.status}"


def _text(keys: Keys) -> str:
    return ",".join(f"{name}:{key}" for name, key in keys.items())
