// From the text "dir/file.name" to a function, with Lambda's errors for everything that can be wrong about it.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { createRequire } = require('node:module');
const { pathToFileURL } = require('node:url');
const { RuntimeError } = require('./failures.cjs');

const NOT_FOUND = new Set(['MODULE_NOT_FOUND', 'ERR_MODULE_NOT_FOUND']);

// { directory, module, names } of "dir/file.a.b".
function split(text) {
  if (text.includes('..')) {
    const how = 'Use absolute paths when specifying root directories in handler names.';
    throw new RuntimeError('Runtime.MalformedHandlerName', `'${text}' is not a valid handler name. ${how}`);
  }
  const base = path.basename(text);
  const match = /^([^.]+)\.(.+)$/.exec(base);
  if (match === null) {
    throw new RuntimeError('Runtime.MalformedHandlerName', 'Bad handler');
  }
  return { directory: text.slice(0, text.length - base.length), module: match[1], names: match[2].split('.') };
}

// Whether the nearest package.json, up to the function's own directory, says that .js files are ES modules.
function isEsPackage(file, root) {
  for (let directory = path.dirname(file); ; directory = path.dirname(directory)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(directory, 'package.json'), 'utf8')).type === 'module';
    } catch (error) {
      if (error.code !== 'ENOENT') {
        return false; // there is one, and it cannot be read: Node would not call it a module either
      }
    }
    if (directory === root || directory === path.dirname(directory)) {
      return false;
    }
  }
}

function isFile(file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.isFile() ?? false;
}

async function load(root, { directory, module }) {
  const stem = path.resolve(root, directory, module);
  const own = createRequire(path.join(root, '_'));
  if (isFile(stem)) {
    return own(stem);
  }
  if (isFile(`${stem}.js`)) {
    return isEsPackage(`${stem}.js`, root) ? await import(pathToFileURL(`${stem}.js`).href) : own(`${stem}.js`);
  }
  if (isFile(`${stem}.mjs`)) {
    return await import(pathToFileURL(`${stem}.mjs`).href);
  }
  if (isFile(`${stem}.cjs`)) {
    return own(`${stem}.cjs`);
  }
  // A package of that name, beside the function or in a layer.
  return own(own.resolve(directory ? `${directory}${module}` : module, { paths: [root, path.join(root, directory)] }));
}

// Runs the module's own init. What it throws comes through, but for syntax errors and missing modules, which have Lambda's names.
async function find(root, text) {
  const wanted = split(text);
  let found;
  try {
    found = await load(root, wanted);
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new RuntimeError('Runtime.UserCodeSyntaxError', String(error), error);
    }
    if (error && NOT_FOUND.has(error.code)) {
      throw new RuntimeError('Runtime.ImportModuleError', String(error), error);
    }
    throw error;
  }
  const handler = reach(found, wanted.names);
  if (handler === undefined || handler === null) {
    throw new RuntimeError('Runtime.HandlerNotFound', `${text} is undefined or not exported`);
  }
  if (typeof handler !== 'function') {
    throw new RuntimeError('Runtime.HandlerNotFound', `${text} is not a function`);
  }
  return handler;
}

function reach(from, names) {
  return names.reduce((value, name) => value?.[name], from);
}

module.exports = { find };
