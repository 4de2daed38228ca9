"""A local copy of a directory at a URL: files are fetched when they are read, and uploaded when they were written."""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..atomic import require_free
from ..errors import RemoteError
from .copies import AT_ONCE, TRIES, at_once, bring, overtaken
from .index import IDENTIFYING, Entry, Index, begin, commit, read_index
from .objects import Objects
from .policy import Policy, chunk_of
from .synced import Synced

AHEAD_FILES, AHEAD_BYTES = 64, 64 << 20
"""What is fetched beyond the file that is read: files that follow it in the same array or directory."""
EVERY = 30.0
"""Seconds between uploads while a command writes."""
_COUNTER = itertools.count()


class Mirror:
    """The local copy. It is a `storage.sources.Source`: register it for its directory.

    A file is fetched whole, and compared with the index by length and SHA-256, before it has its name. What was written locally
    and is not uploaded yet, as a process was killed, is uploaded when the copy is opened again.

    Args:
        url: of the directory.
        home: a local directory for the copy and for what is known of it; created.
        policy: what is uploaded, and when it is fetched; None for all files, which two may not write.

    Raises:
        RemoteError: where the URL cannot be reached.
        DamagedError: for an index that is none.
    """

    def __init__(self, url: str | Path, home: Path, policy: Policy | None = None) -> None:
        self.objects, self.policy = Objects(url), policy or Policy()
        self.directory = home / "copy"
        self._synced = Synced(home / "synced.json", self.objects.url)
        self._depth, self._pushed = 0, 0.0
        self.index = Index()
        home.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def __repr__(self) -> str:
        return f"<Mirror of {self.objects.url} in {self.directory}>"

    # --- what a source does

    def has(self, path: Path) -> bool:
        """Whether a file is to be fetched still."""
        name = self._name(path)
        return name in self.index.files and not os.path.lexists(path)

    def absent(self, directory: Path) -> dict[str, int]:
        """Files below a directory that are to be fetched still, by relative path, with their sizes in bytes."""
        prefix = "" if directory == self.directory else f"{self._name(directory)}/"
        return {
            name.removeprefix(prefix): entry.size
            for name, entry in self.index.files.items()
            if name.startswith(prefix) and not os.path.lexists(self.directory / name)
        }

    def address(self, path: Path) -> str:
        """The URL of a file, or of the directory itself."""
        name = self._name(path)
        return self.objects.url if name == "." else f"{self.objects.url}/{name}"

    def fetch(self, paths: Sequence[Path]) -> None:
        """Bring those of the files that it has, and some that follow them."""
        names = [name for path in paths if (name := self._name(path)) in self.index.files]
        self._bring(list(dict.fromkeys([*names, *self._ahead(names)])))

    def written(self, path: Path) -> None:
        """Upload what was written: at once, or now and then while a command holds the directory."""
        if self.policy.is_private(self._name(path)):
            return
        if self._depth == 0 or time.monotonic() - self._pushed > EVERY:
            self.push()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the whole directory, but for what is kept by its content: all of it is fetched, and what changes is uploaded
        at the end. After an interrupt nothing is uploaded until the copy is opened again."""
        self.refresh()
        self.complete(but=self.policy.first)
        self._depth += 1
        self._synced.hold(True)
        self._pushed = time.monotonic()
        try:
            yield
        except Exception:
            self._depth -= 1
            self._end()
            raise
        except BaseException:
            self._depth -= 1
            raise
        self._depth -= 1
        self._end()

    # --- both directions

    def refresh(self) -> None:
        """Take note of what is at the URL now, bring what is small, and upload what was left."""
        changed, removed = self._synced.changes(self.directory, self.index.files, self.policy)
        latest = read_index(self.objects)
        self._require_same(latest, changed)
        self._adopt(latest, set(changed))
        later = set(removed)
        self._bring([name for name in self._lacking() if name not in later and not self.policy.is_lazy(name)])
        self._synced.save()
        try:
            self._end()
        except RemoteError as error:
            if error.errno != errno.EACCES:  # a run that may only be read is read
                raise

    def complete(self, but: frozenset[str] = frozenset()) -> None:
        """Fetch every file, except below some names at the top."""
        self._bring([name for name in self._lacking() if name.split("/")[0] not in but])

    def push(self) -> None:
        """Upload what differs from what was fetched, and then the index that lists it; nothing where nothing differs.

        Raises:
            RemoteError: where somebody else has uploaded another version of a file that cannot have two.
        """
        changed, removed = self._synced.changes(self.directory, self.index.files, self.policy)
        self._pushed = time.monotonic()
        if not changed and not removed:
            return
        known = begin(self.objects)
        self._require_same(known, changed)
        changed = self._agreed(changed, known)
        self._upload(changed)
        for _ in range(TRIES):
            latest = read_index(self.objects)
            late = [name for name in changed if latest.files.get(name) != known.files.get(name)]
            gone = {name for name in removed if not self._synced.differs(name, latest.files.get(name))}
            files = {name: entry for name, entry in latest.files.items() if name not in gone} | changed
            merged = Index(latest.number + 1, files)
            if files == latest.files or commit(self.objects, merged):
                self._upload({name: changed[name] for name in late})  # another's upload may have come after
                self._adopt(merged, set(changed))
                self._synced.note(self.directory, changed)
                self._synced.save()
                return
        raise overtaken(self.objects, TRIES)

    # --- parts of it

    def _end(self) -> None:
        """Upload what was written; what is absent from now on is to be fetched, unless a command still writes."""
        self.push()
        if self._depth == 0:
            self._synced.hold(False)

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.directory)).as_posix()

    def _lacking(self) -> list[str]:
        return [name for name in self.index.files if not os.path.lexists(self.directory / name)]

    def _ahead(self, names: Sequence[str]) -> list[str]:
        """Absent files that follow, in the order of their numbers, the last of these in the same array or directory."""
        if not names:
            return []
        last = max(names, key=natural)
        prefix = chunk_of(last) or last.rpartition("/")[0] + "/"
        after = sorted((n for n in self._lacking() if n.startswith(prefix) and natural(n) > natural(last)), key=natural)
        sizes = itertools.accumulate(self.index.files[name].size for name in after)
        return [name for name, total in zip(after[:AHEAD_FILES], sizes, strict=False) if total <= AHEAD_BYTES]

    def _bring(self, names: Sequence[str]) -> None:
        """Fetch files, many at a time."""
        if not names:
            return
        require_free(self.directory, sum(self.index.files[n].size for n in names), f"files of {self.objects.url}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            brought = dict(zip(names, pool.map(self._bring_one, names), strict=True))
        self._synced.note(self.directory, brought)
        self._synced.save()  # else it would be taken for written here, once it is another at the URL

    def _bring_one(self, name: str) -> Entry:
        path = self.directory / name
        part = path.with_name(f"{path.name}.{os.getpid()}-{next(_COUNTER)}.part")
        return bring(self.objects, name, self.index.files[name], path, part)

    def _agreed(self, changed: dict[str, Entry], latest: Index) -> dict[str, Entry]:
        """What is to be uploaded of what was changed, where somebody else has uploaded too."""
        theirs = {name: latest.files.get(name) for name in changed}
        overtaken = [n for n, t in theirs.items() if t != changed[n] and self._synced.differs(n, t)]
        stays = {name: self.policy.stays(name) for name in overtaken}
        if refused := [name for name, held in stays.items() if held is None]:
            raise RemoteError(
                f"{self.objects.url}: expected to be alone in writing {refused[0]}"
                + (f" and {len(refused) - 1} more files" if len(refused) > 1 else "")
                + f", got another version that was uploaded meanwhile; yours lies in {self.directory}: remove it there to take "
                "the uploaded one"
            )
        for name, held in stays.items():
            if held:
                (self.directory / name).unlink()
                self._synced.forget([name])
        return {name: entry for name, entry in changed.items() if not stays.get(name)}

    def _require_same(self, latest: Index, changed: Mapping[str, Entry]) -> None:
        """RemoteError where what was written here belongs to a directory that does not lie at the URL any more."""
        entry = latest.files.get(IDENTIFYING)
        if changed and IDENTIFYING not in changed and self._synced.replaced(IDENTIFYING, entry):
            raise RemoteError(
                f"{self.objects.url}: expected the directory that {self.directory} is a copy of, got "
                f"{'nothing' if entry is None else 'another'} there since; {min(changed)} and what else was written to the "
                "earlier one is not uploaded: move the copy elsewhere to keep it, or remove it, and repeat"
            )

    def _upload(self, changed: Mapping[str, Entry]) -> None:
        at_once(lambda name: self.objects.upload(name, self.directory / name), changed, lambda: None)

    def _adopt(self, latest: Index, changed: set[str]) -> None:
        """Hold to an index: local copies that it has otherwise go, but for what was changed here."""
        for name in self._synced.outdated(latest.files):
            if name not in changed:
                (self.directory / name).unlink(missing_ok=True)
                self._synced.forget([name])
        self.index = latest


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts numbers in names by their value."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part)
