"""Made-up JSON and CSV documents: records with one schema each, as web services return them."""

from __future__ import annotations

import csv
import io
import json
import random
from typing import Any

FIRST = [
    "Ada",
    "Ben",
    "Chloe",
    "David",
    "Elena",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Keiko",
    "Liam",
    "Maya",
    "Noah",
    "Olga",
    "Pedro",
    "Quinn",
    "Rosa",
    "Sven",
    "Tara",
]
LAST = [
    "Adams",
    "Baker",
    "Chen",
    "Diaz",
    "Evans",
    "Fischer",
    "Garcia",
    "Hansen",
    "Ito",
    "Jones",
    "Kim",
    "Lopez",
    "Meyer",
    "Novak",
    "Owens",
    "Patel",
    "Rossi",
    "Silva",
]
CITIES = [
    "Lisbon",
    "Oslo",
    "Nairobi",
    "Toronto",
    "Lima",
    "Osaka",
    "Vienna",
    "Dublin",
    "Austin",
    "Accra",
    "Hanoi",
    "Prague",
    "Quito",
    "Riga",
    "Seoul",
    "Turin",
]
WORDS = [
    "alpha",
    "backup",
    "cache",
    "deploy",
    "engine",
    "filter",
    "gateway",
    "index",
    "journal",
    "kernel",
    "layout",
    "metric",
    "network",
    "object",
    "parser",
    "queue",
    "router",
    "server",
    "table",
    "update",
    "volume",
    "worker",
    "archive",
    "bridge",
    "cluster",
    "device",
    "event",
    "folder",
]
COLOURS = ["red", "green", "blue", "black", "white", "silver", "orange", "purple"]


def _date(r: random.Random) -> str:
    return f"{r.randint(2019, 2025)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"


FIELDS: dict[str, Any] = {
    "id": lambda r, i: i,
    "name": lambda r, i: f"{r.choice(FIRST)} {r.choice(LAST)}",
    "title": lambda r, i: f"{r.choice(WORDS).capitalize()} {r.choice(WORDS)}",
    "email": lambda r, i: f"{r.choice(FIRST).lower()}.{r.choice(LAST).lower()}@example.com",
    "city": lambda r, i: r.choice(CITIES),
    "active": lambda r, i: r.random() < 0.6,
    "price": lambda r, i: round(r.uniform(1, 200), 2),
    "quantity": lambda r, i: r.randint(1, 50),
    "created": lambda r, i: _date(r),
    "updated_at": lambda r, i: f"{_date(r)}T{r.randint(0, 23):02d}:{r.randint(0, 59):02d}:00Z",
    "status": lambda r, i: r.choice(["open", "closed", "pending", "failed", "running"]),
    "colour": lambda r, i: r.choice(COLOURS),
    "tags": lambda r, i: r.sample(WORDS, r.randint(1, 3)),
    "age": lambda r, i: r.randint(18, 80),
    "score": lambda r, i: round(r.random(), 3),
    "url": lambda r, i: f"https://example.com/{r.choice(WORDS)}/{i}",
    "sku": lambda r, i: f"{r.choice(WORDS)[:3].upper()}-{r.randint(100, 999)}",
    "host": lambda r, i: f"{r.choice(WORDS)}-{i:02d}.example.com",
    "port": lambda r, i: r.choice([22, 80, 443, 5432, 6379, 8080]),
    "version": lambda r, i: f"{r.randint(0, 4)}.{r.randint(0, 12)}.{r.randint(0, 9)}",
    "size": lambda r, i: {"width": r.randint(10, 400), "height": r.randint(10, 400)},
    "address": lambda r, i: {"street": f"{r.randint(1, 99)} {r.choice(LAST)} Street", "city": r.choice(CITIES)},
    "owner": lambda r, i: {"id": r.randint(1, 40), "name": r.choice(FIRST)},
    "enabled": lambda r, i: r.random() < 0.5,
    "description": lambda r, i: f"The {r.choice(WORDS)} {r.choice(WORDS)} of the {r.choice(WORDS)}",
    "error": lambda r, i: None,
}
FLAT = [k for k in FIELDS if k not in ("tags", "size", "address", "owner", "error")]
COLLECTIONS = [
    "items",
    "users",
    "orders",
    "products",
    "servers",
    "events",
    "books",
    "tasks",
    "results",
    "nodes",
    "jobs",
    "devices",
    "articles",
]


def make_record_document(rng: random.Random) -> str:
    """A JSON document, or now and then a CSV table, of records that share a schema."""
    start = rng.choice([1, 1, 1, 100, 1000, rng.randint(2, 5000)])
    if rng.random() < 0.2:
        fields = ["id", *rng.sample(FLAT[1:], rng.randint(3, 6))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(fields)
        for i in range(start, start + rng.randint(8, 40)):
            writer.writerow([FIELDS[f](rng, i) for f in fields])
        return out.getvalue()
    fields = rng.sample([f for f in FIELDS if f != "id"], rng.randint(3, 7))
    fields = ["id", *fields] if rng.random() < 0.8 else fields
    records: Any = [{f: FIELDS[f](rng, i) for f in fields} for i in range(start, start + rng.randint(4, 18))]
    form = rng.random()
    if form < 0.35:
        records = {rng.choice(COLLECTIONS): records}
    elif form < 0.55:
        records = {
            "page": 1,
            "per_page": len(records),
            "total": len(records) * rng.randint(1, 9),
            rng.choice(COLLECTIONS): records,
        }
    return json.dumps(records, indent=rng.choice([2, 2, 4])) + "\n"
