CREATE VIEW a AS SELECT * FROM paymens;
CREATE VIEW b AS SELECT p.amount FROM payments p JOIN (SELECT * FROM nowhere) n ON n.x = p.amount;
CREATE VIEW c AS SELECT * FROM other.payments;
