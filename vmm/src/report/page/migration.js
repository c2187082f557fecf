function migrationView() { return []; }
