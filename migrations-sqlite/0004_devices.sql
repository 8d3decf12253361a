-- Where rows came from, to be shown and filtered by. As in 0002, SQL of SQLite 3.8.

-- The machine that had written the row when it was first pulled, by the name that it gives itself; '' where it gave
-- none. NULL: written in this file.
ALTER TABLE sync_messages ADD COLUMN hardware_id TEXT;
ALTER TABLE sync_tasks ADD COLUMN hardware_id TEXT;
