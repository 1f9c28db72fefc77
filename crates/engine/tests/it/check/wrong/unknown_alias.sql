CREATE VIEW v AS SELECT q.amount FROM payments p;
