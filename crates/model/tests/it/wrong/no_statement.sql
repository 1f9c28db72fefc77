42;
'text';
(SELECT 1);
