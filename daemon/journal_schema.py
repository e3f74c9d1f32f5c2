"""The tables of the journal's store, and what brings the tables of an earlier release to them.

Energies are whole nanojoules, times the clock's nanoseconds, but `*_unix` those since 1970.
"""

from __future__ import annotations

from daemon.journal_sums import STRETCH_NANOSECONDS

VERSION = 6
# The status of a request whose dispatch is recorded and whose end is not.
RUNNING = "running"
# What it becomes when the daemon that ran it has died: it may have spent all that was reserved.
LOST = "lost"
# The status of the record of a device that was powered up.
MAINTENANCE = "maintenance"
# A figure that is final stays beside the provisional one that left with the reply. The attempts are those that failed:
# the one that was answered, or ran last, is the request's own. A row of the ledger is a closed range of time of one
# meter: what it counted is where it went, `pending` being that part of dynamic and static of rows not yet final.
SCHEMA = """
CREATE TABLE sessions (
  id INTEGER PRIMARY KEY, boot TEXT NOT NULL, started_unix INTEGER NOT NULL, started INTEGER NOT NULL, ended INTEGER
) STRICT;
CREATE TABLE points (
  id INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, variant TEXT NOT NULL, digest TEXT NOT NULL,
  device TEXT NOT NULL, steps INTEGER NOT NULL, margin INTEGER NOT NULL, simulated INTEGER NOT NULL,
  provenance TEXT NOT NULL, boundary TEXT NOT NULL, accuracy REAL NOT NULL,
  UNIQUE (digest, model, version, variant, device, steps, margin, provenance)
) STRICT;
CREATE TABLE reigns (
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, policy TEXT NOT NULL, limit_nanojoules INTEGER NOT NULL,
  window_nanoseconds INTEGER NOT NULL, static_watts REAL NOT NULL, began INTEGER NOT NULL,
  burst_nanojoules INTEGER, burst_watts REAL NOT NULL
) STRICT;
CREATE TABLE requests (
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, reign INTEGER NOT NULL, point INTEGER, status TEXT NOT NULL,
  images INTEGER NOT NULL, accepted_unix INTEGER NOT NULL, accepted INTEGER NOT NULL, started INTEGER NOT NULL,
  ended INTEGER NOT NULL, reserved_nanojoules INTEGER NOT NULL, dynamic_nanojoules INTEGER NOT NULL,
  static_nanojoules INTEGER NOT NULL, uncertainty_nanojoules INTEGER NOT NULL, energy_state TEXT NOT NULL,
  device_seconds REAL NOT NULL, deadline INTEGER NOT NULL, sequence INTEGER NOT NULL, provenance TEXT NOT NULL,
  sharing TEXT NOT NULL, provisional_dynamic_nanojoules INTEGER NOT NULL, provisional_static_nanojoules INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_by_session ON requests (session, ended);
"""
LEDGER = """
CREATE TABLE attempts (
  request INTEGER NOT NULL, number INTEGER NOT NULL, session INTEGER NOT NULL, reign INTEGER NOT NULL,
  point INTEGER NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL, dynamic_nanojoules INTEGER NOT NULL,
  static_nanojoules INTEGER NOT NULL, uncertainty_nanojoules INTEGER NOT NULL, energy_state TEXT NOT NULL,
  provenance TEXT NOT NULL, sharing TEXT NOT NULL, provisional_nanojoules INTEGER NOT NULL,
  PRIMARY KEY (request, number)
) STRICT;
CREATE INDEX attempts_by_session ON attempts (session, ended);
CREATE TABLE meters (
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, account INTEGER NOT NULL, name TEXT NOT NULL,
  boundary TEXT NOT NULL
) STRICT;
CREATE TABLE account_devices (
  session INTEGER NOT NULL, account INTEGER NOT NULL, device TEXT NOT NULL, PRIMARY KEY (session, device)
) STRICT, WITHOUT ROWID;
CREATE TABLE ledger (
  meter INTEGER NOT NULL, began INTEGER NOT NULL, ended INTEGER NOT NULL, provenance TEXT NOT NULL,
  metered_nanojoules INTEGER NOT NULL, dynamic_nanojoules INTEGER NOT NULL, static_nanojoules INTEGER NOT NULL,
  idle_nanojoules INTEGER NOT NULL, background_nanojoules INTEGER NOT NULL, unattributed_nanojoules INTEGER NOT NULL,
  maintenance_nanojoules INTEGER NOT NULL, pending_nanojoules INTEGER NOT NULL, PRIMARY KEY (meter, began)
) STRICT, WITHOUT ROWID;
"""
SUM_COLUMNS = """
  stretch INTEGER NOT NULL, policy TEXT NOT NULL, model TEXT NOT NULL, variant TEXT NOT NULL, device TEXT NOT NULL,
  provenance TEXT NOT NULL, status TEXT NOT NULL, requests INTEGER NOT NULL, dynamic_nanojoules INTEGER NOT NULL,
  static_nanojoules INTEGER NOT NULL, device_seconds REAL NOT NULL, provisional_requests INTEGER NOT NULL,
  provisional_dynamic_nanojoules INTEGER NOT NULL, provisional_static_nanojoules INTEGER NOT NULL,
  PRIMARY KEY (stretch, policy, model, variant, device, provenance, status)
"""
# Stretches of ten minutes in which requests were accepted, and what was summed of those that are `summed`.
SUMS = f"""
CREATE INDEX requests_by_time ON requests (accepted_unix);
CREATE TABLE stretches (number INTEGER PRIMARY KEY, summed INTEGER NOT NULL) STRICT;
CREATE TABLE sums ({SUM_COLUMNS}) STRICT, WITHOUT ROWID;
INSERT INTO stretches SELECT DISTINCT accepted_unix / {STRETCH_NANOSECONDS}, 0 FROM requests
UNION SELECT 0, 0;
"""
# What stands for sealed records: in the sums of their stretches, and in counts of each session and device.
SEALS = f"""
CREATE TABLE sealed_sums ({SUM_COLUMNS}) STRICT, WITHOUT ROWID;
CREATE TABLE seals (
  session INTEGER NOT NULL, device TEXT NOT NULL, requests INTEGER NOT NULL, last_request INTEGER NOT NULL,
  acknowledged INTEGER NOT NULL, last_sequence INTEGER NOT NULL, late INTEGER NOT NULL,
  told_nanojoules INTEGER NOT NULL, PRIMARY KEY (session, device)
) STRICT, WITHOUT ROWID;
"""
# Between which numbers the sealed requests of a stretch were, so that it can be told where one of them is counted.
SEALED_NUMBERS = """
CREATE TABLE sealed_numbers (stretch INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
"""
# By the format that they start from. What it did not record stays unknown: 0, and NULL for the end of a session.
# Before format 3 no figure became final later: the model's was all there was.
UPGRADES = {
    1: """
ALTER TABLE sessions ADD COLUMN ended INTEGER;
ALTER TABLE reigns ADD COLUMN burst_nanojoules INTEGER;
ALTER TABLE reigns ADD COLUMN burst_watts REAL NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN deadline INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
""",
    2: f"""
ALTER TABLE requests ADD COLUMN provenance TEXT NOT NULL DEFAULT '';
ALTER TABLE requests ADD COLUMN sharing TEXT NOT NULL DEFAULT 'shared';
ALTER TABLE requests ADD COLUMN provisional_dynamic_nanojoules INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN provisional_static_nanojoules INTEGER NOT NULL DEFAULT 0;
UPDATE requests SET
  provenance = COALESCE((SELECT provenance FROM points WHERE points.id = point), ''),
  provisional_dynamic_nanojoules = dynamic_nanojoules, provisional_static_nanojoules = static_nanojoules,
  energy_state = IIF(status = 'running', energy_state, 'final');
{LEDGER}""",
    3: SUMS,
    4: SEALS,
    5: SEALED_NUMBERS,
}


def script(version: int) -> str:
    """Give what brings a store of format `version`, 0 for an empty one, to this one. Raises `KeyError`."""
    later = [UPGRADES[step] for step in range(version or 3, VERSION)]
    steps = later if version else [SCHEMA, LEDGER, *later]
    return f"BEGIN;{''.join(steps)}PRAGMA user_version = {VERSION};COMMIT"
