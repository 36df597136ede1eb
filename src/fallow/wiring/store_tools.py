"""Backup, restore and migration of a store, on its URL."""

import asyncio

from fallow.cli.failures import Failure, sentence
from fallow.cli.launchers import BackupOptions, MigrateOptions, RestoreOptions, StoreCopied, StoreTask


def run_store(task: StoreTask) -> StoreCopied:
    """Do what was asked of a store. Raises Failure."""
    from fallow.store.contract import StoreError

    try:
        return asyncio.run(_do(task))
    except (StoreError, ValueError) as error:
        raise Failure(sentence(str(error))) from error
    except OSError as error:
        raise Failure(f"{error.filename or 'the file'}: {error.strerror or error}") from error


async def _do(task: StoreTask) -> StoreCopied:
    from fallow.store.backup import back_up, migrate, restore

    match task:
        case BackupOptions():
            copied = await back_up(task.store, task.file)
        case RestoreOptions():
            copied = await restore(task.file, task.store, replace=task.replace, progress=task.progress)
        case MigrateOptions():
            copied = await migrate(task.source, task.target, replace=task.replace, progress=task.progress)
    return StoreCopied(records=copied.records, revision=copied.revision)
