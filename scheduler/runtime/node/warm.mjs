// Imported by prestart.cjs: nothing, the first time.
export {};
