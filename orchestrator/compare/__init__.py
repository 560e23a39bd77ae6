"""Tables in, tables out: comparisons of what was measured. PURE. Importing this package stays free of pyarrow."""
