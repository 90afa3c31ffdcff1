"""Alembic's entry: runs the migrations on the connection that `xrouter.store.migrate` hands over, in its transaction."""

from alembic import context

from xrouter.store.whole_schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
